// Mouse, wheel, touch and pen on the canvas: one pointer turns the camera; two fingers, the right button or
// Shift move it; wheel and pinch zoom; a double click or double tap asks to focus.

const DEGREES_A_PIXEL = 0.4;
const TAP_PIXELS = 12;
const DOUBLE_TAP_MS = 350;

/**
 * actions: turn(azimuth, elevation) in degrees; move(dx, dy) in CSS pixels; zoom(factor); focus(x, y) and
 * hover(x, y) in CSS pixels of the canvas.
 */
export function listen(canvas, actions) {
  const pointers = new Map();
  let lastTap = { time: -Infinity, x: 0, y: 0 };
  let travelled = 0;

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (pointers.size === 0) travelled = 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    actions.hover(event.clientX - left, event.clientY - top);
    const pointer = pointers.get(event.pointerId);
    if (!pointer) return;
    const dx = event.clientX - pointer.x;
    const dy = event.clientY - pointer.y;
    travelled += Math.hypot(dx, dy);
    if (pointers.size === 1) {
      pointer.x = event.clientX;
      pointer.y = event.clientY;
      const moves = event.shiftKey || (event.pointerType === "mouse" && (event.buttons & 6) !== 0);
      if (moves) actions.move(dx, dy);
      else actions.turn(-DEGREES_A_PIXEL * dx, DEGREES_A_PIXEL * dy);
    } else if (pointers.size === 2) {
      const [before, after] = twoFingers(pointers, pointer, event);
      actions.move(after.x - before.x, after.y - before.y);
      if (before.apart > 1 && after.apart > 1) actions.zoom(before.apart / after.apart);
    }
  });
  const end = (event) => {
    if (!pointers.delete(event.pointerId) || event.type === "pointercancel") return;
    if (event.pointerType !== "touch" || pointers.size > 0 || travelled > TAP_PIXELS) return;
    const near = Math.hypot(event.clientX - lastTap.x, event.clientY - lastTap.y) < 4 * TAP_PIXELS;
    const again = near && event.timeStamp - lastTap.time < DOUBLE_TAP_MS;
    lastTap = { time: again ? -Infinity : event.timeStamp, x: event.clientX, y: event.clientY };
    if (again) focus(event);
  };
  const focus = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    actions.focus(event.clientX - left, event.clientY - top);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("dblclick", (event) => {
    // Touch screens send their own, after the two taps above.
    if (event.pointerType !== "touch" && lastTap.time < event.timeStamp - 2 * DOUBLE_TAP_MS) focus(event);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
      actions.zoom(Math.exp(0.0015 * Math.max(-240, Math.min(240, pixels)) * (event.ctrlKey ? 5 : 1)));
    },
    { passive: false },
  );
}

/** The middle {x, y} of two pointers and how far they are `apart`, before and after one of them moved. */
function twoFingers(pointers, moved, event) {
  const measure = () => {
    const [a, b] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  const before = measure();
  moved.x = event.clientX;
  moved.y = event.clientY;
  return [before, measure()];
}
