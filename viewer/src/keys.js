// The keyboard. Keys of buttons, sliders and lists stay theirs.

const STEP_DEGREES = 5;
const STEP_PIXELS = 24;

/** actions: turn, move, zoom as in gestures.js, and a function for each letter of KEYS. */
export function listenToKeys(actions) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const at = event.target instanceof Element ? event.target : document.body;
    if (at.closest("select, input:not([type=radio]):not([type=checkbox])")) return;
    if (event.key === " " && at.closest("button, input, summary")) return;
    const arrow = ARROWS[event.key];
    if (arrow && at.closest("input")) return;
    if (arrow && event.shiftKey) actions.move(-STEP_PIXELS * arrow[0], -STEP_PIXELS * arrow[1]);
    else if (arrow) actions.turn(STEP_DEGREES * arrow[0], -STEP_DEGREES * arrow[1]);
    else if ("123456".includes(event.key)) actions.layer(Number(event.key) - 1);
    else if (event.key in KEYS) KEYS[event.key](actions);
    else if (event.key.toLowerCase() in KEYS) KEYS[event.key.toLowerCase()](actions);
    else return;
    event.preventDefault();
  });
}

/** Where the camera goes, right and down. */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const KEYS = {
  "+": (actions) => actions.zoom(1 / 1.15),
  "=": (actions) => actions.zoom(1 / 1.15),
  "-": (actions) => actions.zoom(1.15),
  0: (actions) => actions.reset(),
  "?": (actions) => actions.help(),
  ",": (actions) => actions.step(-1),
  ".": (actions) => actions.step(1),
  " ": (actions) => actions.play(),
  b: (actions) => actions.background(),
  c: (actions) => actions.panel(),
  f: (actions) => actions.face(),
  g: (actions) => actions.fullScreen(),
  h: (actions) => actions.highlights(),
  l: (actions) => actions.loop(),
  p: (actions) => actions.screenshot(),
  t: (actions) => actions.turntable(),
};
