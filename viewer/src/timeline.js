// The bar at the bottom: which clip plays, where, how fast.

import { byId, make, showFilled } from "./dom.js";
import { setIcon } from "./icons.js";

export class Timeline {
  /** changed(): the pose may be another. */
  constructor(changed) {
    this.player = null;
    this.changed = changed;
    byId("play").addEventListener("click", () => this.toggle());
    byId("loop").addEventListener("click", () => this.toggleLoop());
    byId("scrub").addEventListener("input", (event) => {
      this.player.playing = false;
      this.player.seek(Number(event.target.value));
      this.#refresh();
    });
    byId("clip").addEventListener("change", (event) => {
      this.player.choose(this.player.clips[Number(event.target.value)] ?? null);
      this.#refresh();
    });
    byId("speed").addEventListener("change", (event) => {
      this.player.speed = Number(event.target.value);
    });
  }

  /** Show the clips of this player, in the state that the controls are in. */
  attach(player) {
    const chosen = this.player?.clip?.name;
    const playing = this.player?.playing;
    this.player = player;
    byId("timeline").hidden = player.clips.length === 0;
    const options = player.clips.map((clip, index) => make("option", { value: index, textContent: clip.name }));
    byId("clip").replaceChildren(make("option", { value: -1, textContent: "Rest pose" }), ...options);
    const same = player.clips.findIndex((clip) => clip.name === chosen);
    byId("clip").value = same;
    if (same >= 0) {
      player.choose(player.clips[same]);
      player.playing = Boolean(playing);
    }
    player.speed = Number(byId("speed").value);
    player.loop = byId("loop").getAttribute("aria-pressed") === "true";
    this.show();
  }

  toggle() {
    const { player } = this;
    if (!player?.clips.length) return;
    if (!player.clip) {
      byId("clip").value = 0;
      player.choose(player.clips[0]);
    } else if (player.playing) player.playing = false;
    else player.play();
    this.#refresh();
  }

  toggleLoop() {
    if (!this.player) return;
    this.player.loop = !this.player.loop;
    byId("loop").setAttribute("aria-pressed", this.player.loop);
  }

  step(frames) {
    this.player?.step(frames);
    this.#refresh();
  }

  /** Bring the bar up to date; called for every frame that is drawn. */
  show() {
    const { player } = this;
    const scrub = byId("scrub");
    scrub.disabled = !player.clip;
    scrub.max = player.duration || 1;
    scrub.value = player.time;
    showFilled(scrub);
    byId("time").textContent = `${player.time.toFixed(1)} s`;
    scrub.setAttribute("aria-valuetext", byId("time").textContent);
    setIcon(byId("play"), player.playing ? "pause" : "play");
    byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  }

  #refresh() {
    if (!this.player) return;
    this.show();
    this.changed();
  }
}
