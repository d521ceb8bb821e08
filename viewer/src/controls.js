// The panel: what is drawn, and how.

import { byId, make, showFilled } from "./dom.js";

const LAYERS = ["final", "diffuse", "specular", "normal", "alpha", "depth"];
const COLOUR_KINDS = { asg: "four lobes a Gaussian", sh3: "spherical harmonics", diffuse: "without highlights" };

export class Controls {
  /** settings: what `Renderer.draw` takes; changed(): they are others. */
  constructor(settings, changed) {
    this.settings = settings;
    this.changed = changed;
    this.strength = 1;
    this.player = null;
    for (const id of ["specular-on", "specular", "size"]) byId(id).addEventListener("input", () => this.read());
    byId("layers").addEventListener("input", () => this.read());
    byId("backgrounds").addEventListener("input", (event) => {
      if (event.target.id === "other-colour") event.target.previousElementSibling.checked = true;
      this.read();
    });
    byId("gaze").addEventListener("input", () => changed());
    byId("neutral").addEventListener("click", () => this.#neutral());
    for (const swatch of document.querySelectorAll("[data-swatch]")) swatch.style.background = swatch.dataset.swatch;
    this.read();
  }

  /** Take over the state of the form. */
  read() {
    const { settings } = this;
    settings.specular = byId("specular-on").checked ? Number(byId("specular").value) : 0;
    settings.size = Number(byId("size").value);
    settings.layer = document.querySelector("[name=layer]:checked").value;
    const chosen = document.querySelector("[name=background]:checked").value;
    const colour = chosen === "other" ? byId("other-colour").value : chosen;
    settings.background = colour ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255) : null;
    document.body.classList.toggle("transparent", !colour);
    document.body.style.background = colour;
    byId("specular").disabled = !byId("specular-on").checked;
    for (const id of ["specular", "size"]) {
      showFilled(byId(id));
      document.querySelector(`output[for=${id}]`).textContent = `${Math.round(100 * byId(id).value)} %`;
    }
    this.changed();
  }

  toggleHighlights() {
    byId("specular-on").click();
  }

  layer(index) {
    document.querySelector(`[name=layer][value=${LAYERS[index]}]`).click();
  }

  nextBackground() {
    const all = [...document.querySelectorAll("[name=background]")];
    all[(all.findIndex((one) => one.checked) + 1) % all.length].click();
  }

  get gaze() {
    return this.player?.canLook ? byId("gaze").value : "";
  }

  /** Show what this avatar offers; expressions of the avatar before stay. */
  attach(avatar, player) {
    const before = this.player;
    this.player = player;
    byId("highlight-controls").hidden = avatar.kind === "diffuse";
    const facts = [["Gaussians", avatar.count.toLocaleString("en")], ["Colours", COLOUR_KINDS[avatar.kind]]];
    if (avatar.binding) facts.push(["Joints", avatar.binding.names.length]);
    byId("facts").replaceChildren(
      ...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]),
    );
    if (before) {
      player.names.forEach((name, index) => {
        const old = before.names.indexOf(name);
        if (old >= 0) player.strengths[index] = before.strengths[old];
      });
    }
    byId("expression-controls").hidden = player.names.length === 0 && !player.canLook;
    byId("gaze-row").hidden = !player.canLook;
    byId("neutral").hidden = player.names.length === 0;
    byId("expressions").replaceChildren(...player.names.map((name, index) => this.#slider(name, index)));
  }

  #slider(name, index) {
    const { strengths } = this.player;
    const output = make("output", { textContent: percent(strengths[index]) });
    const range = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: strengths[index] });
    const words = name.replace(/[._-]+/g, " ").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
    range.addEventListener("input", () => {
      strengths[index] = Number(range.value);
      output.textContent = percent(range.value);
      showFilled(range);
      this.changed();
    });
    showFilled(range);
    return make("label", { className: "slider" }, make("span", { textContent: words }), output, range);
  }

  #neutral() {
    for (const range of byId("expressions").querySelectorAll("input")) {
      range.value = 0;
      range.dispatchEvent(new Event("input"));
    }
  }
}

const percent = (value) => `${Math.round(100 * value)} %`;
