// The viewer's page: an avatar on the whole window, tools, a panel, and a timeline.

import { OrbitCamera } from "./camera.js";
import { Controls } from "./controls.js";
import { byId } from "./dom.js";
import { fileName, packedIn, pageText, parsePage, readFile, save, selfContained } from "./files.js";
import { framingDistance, subjects } from "./framing.js";
import { listen } from "./gestures.js";
import { drawIcons, setIcon } from "./icons.js";
import { listenToKeys } from "./keys.js";
import { unpack } from "./pack.js";
import { Player } from "./player.js";
import { Renderer } from "./renderer.js";
import { runIsLost, showRun } from "./run.js";
import { fetchPacked, fetchPage, Server } from "./server.js";
import { Timeline } from "./timeline.js";

const MOST_PIXELS_A_POINT = 2;
const TURNTABLE_DEGREES_A_SECOND = 24;
const GLIDE_MS = 280;
const MESSAGE_MS = 6000;
const FOV_Y = 30;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class Page {
  constructor() {
    this.template = selfContained(); // before anything changes the document
    drawIcons();
    this.canvas = byId("canvas");
    this.camera = new OrbitCamera({ azimuth: 20, elevation: 4, fovY: FOV_Y });
    this.settings = { layer: "final", specular: 1, size: 1, background: null };
    this.renderer = null;
    this.avatar = null;
    this.player = null;
    this.opened = null; // a packed avatar that the user opened in place of the page's own
    this.version = 0;
    this.pointer = null;
    this.glide = null;
    this.before = 0; // time of the frame before, 0 if nothing moved then
    this.scheduled = false;
    this.timeline = new Timeline(() => this.redraw());
    this.controls = new Controls(this.settings, () => this.redraw());
    this.#listen();
    this.#showPanel(innerWidth >= 720 && innerHeight >= 480);
  }

  async start() {
    try {
      this.renderer = new Renderer(this.canvas, { onNote: (text) => this.say(text) });
    } catch (error) {
      this.#fail(error.message);
      return;
    }
    this.canvas.addEventListener("webglcontextrestored", () => this.redraw());
    if (this.template) {
      try {
        await this.show(await packedIn(this.template));
      } catch (error) {
        this.#fail(error.message);
      }
      return;
    }
    const server = new Server(
      (state) => this.#follow(state),
      () => this.#lost(),
    );
    await server.watch();
  }

  /** Show this packed avatar. The camera stays if there was one before that it goes on from. */
  async show(packed, keepCamera = false) {
    const avatar = await unpack(packed);
    const first = this.avatar === null;
    this.renderer.setAvatar(avatar);
    this.avatar = avatar;
    this.packed = packed;
    this.subjects = subjects(avatar.means);
    this.player = new Player(avatar);
    this.controls.attach(avatar, this.player);
    this.timeline.attach(this.player);
    const title = avatar.meta.title || "Avatar";
    byId("title").textContent = byId("title").title = title;
    byId("note").textContent = avatar.meta.note ?? "";
    document.title = `${title} – SpecularIP`;
    if (first || !keepCamera) this.frame("whole", false);
    byId("loading").hidden = true;
    this.redraw();
  }

  /** Draw with the next frame of the screen. */
  redraw() {
    if (this.scheduled || !this.renderer || !this.avatar) return;
    this.scheduled = true;
    requestAnimationFrame((now) => {
      this.scheduled = false;
      const moving = this.#advance(now);
      this.draw();
      this.timeline.show();
      this.before = moving ? now : 0;
      if (moving) this.redraw();
    });
  }

  /** Draw now. */
  draw() {
    const scale = Math.min(devicePixelRatio, MOST_PIXELS_A_POINT);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.player.lookAt = this.#gazePoint();
    this.renderer.setPose(this.player.pose());
    this.renderer.draw(this.view(width, height), this.settings);
    document.documentElement.dataset.ready = "";
  }

  /** What `Renderer.draw` takes for a canvas of width × height pixels: centred where the panel leaves it free. */
  view(width, height) {
    const scale = height / Math.max(1, this.canvas.clientHeight);
    const free = this.#free();
    const view = this.camera.view(free.width * scale, free.height * scale);
    return { ...view, width, height };
  }

  /** The width and height, in CSS pixels, of the part of the window that the panel leaves, at the top left. */
  #free() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const panel = byId("panel").getBoundingClientRect();
    if (byId("panel").hidden || panel.height === 0) return { width, height };
    const sheet = panel.width > 0.9 * width;
    const free = sheet ? { width, height: panel.top } : { width: panel.left, height };
    return { width: Math.max(0.3 * width, free.width), height: Math.max(0.3 * height, free.height) };
  }

  /** Look at the "whole" body or at the "face", from the side where the camera is. */
  frame(subject, glide = true) {
    if (!this.subjects) return;
    const chosen = this.subjects[subject];
    const free = this.#free();
    const aspect = free.width / Math.max(1, free.height);
    this.#goTo({ target: chosen.centre, distance: framingDistance(chosen, FOV_Y, aspect) }, glide);
  }

  /** Show a message for some seconds. */
  say(text) {
    const message = byId("message");
    message.textContent = text;
    message.classList.add("shown");
    clearTimeout(this.silence);
    this.silence = setTimeout(() => message.classList.remove("shown"), MESSAGE_MS);
  }

  async open(file) {
    try {
      const packed = await readFile(file);
      await this.show(packed);
      this.opened = packed;
      showRun(null);
    } catch (error) {
      this.say(error.message);
    }
  }

  screenshot() {
    if (!this.avatar) return;
    this.draw(); // in this task: the canvas is empty again once it has been shown
    this.canvas.toBlob((blob) => save(blob, `${this.#name()}.png`), "image/png");
  }

  async share() {
    if (!this.avatar) return;
    try {
      let text;
      if (this.template) text = await pageText(this.template, this.opened);
      else if (!this.opened) text = await fetchPage();
      else text = await pageText(parsePage(await fetchPage()), this.opened);
      save(new Blob([text], { type: "text/html" }), `${this.#name()}.html`);
    } catch (error) {
      this.say(`The page could not be saved: ${error.message}`);
    }
  }

  #name() {
    return fileName(this.avatar.meta.title || "avatar");
  }

  async #follow(state) {
    if (this.opened) return;
    showRun(state.run);
    if (state.version === this.version) {
      if (!this.avatar) byId("loading-text").textContent = state.note || "Loading the avatar";
      else byId("note").textContent = state.note;
      return;
    }
    try {
      await this.show(await fetchPacked(state.version), true);
      byId("note").textContent = state.note;
    } catch (error) {
      this.say(`The avatar could not be shown: ${error.message}`);
    }
    this.version = state.version; // also of one that failed: it would fail again
  }

  #lost() {
    runIsLost();
    const again = byId("run").hidden
      ? "Start specularip view again and open the address that it prints."
      : "A run that is continued with --resume --view prints a new address.";
    const text = `The program that serves this page has ended. ${again}`;
    if (this.avatar) byId("note").textContent = text;
    else this.#fail(text);
  }

  #fail(text) {
    byId("loading").hidden = false;
    byId("loading").classList.add("failed");
    byId("loading-text").textContent = text;
  }

  /** Bring everything that moves to the time `now`; whether it goes on. */
  #advance(now) {
    const seconds = this.before ? Math.min(0.1, (now - this.before) / 1000) : 0;
    if (byId("turntable").checked) this.camera.orbit(TURNTABLE_DEGREES_A_SECOND * seconds, 0);
    this.player.advance(seconds);
    if (this.glide) this.#glideTo(now);
    return byId("turntable").checked || this.player.playing || this.glide !== null;
  }

  #goTo(goal, glide = true) {
    this.glide = null;
    if (!glide || STILL.matches) Object.assign(this.camera, { ...goal, target: [...goal.target] });
    else this.glide = { from: { target: [...this.camera.target], distance: this.camera.distance }, goal, began: 0 };
    this.redraw();
  }

  #glideTo(now) {
    const { from, goal } = this.glide;
    this.glide.began ||= now;
    const share = Math.min(1, (now - this.glide.began) / GLIDE_MS);
    const eased = 1 - (1 - share) ** 3;
    this.camera.target = from.target.map((value, k) => value + eased * (goal.target[k] - value));
    this.camera.distance = from.distance * (goal.distance / from.distance) ** eased;
    if (share === 1) this.glide = null;
  }

  /** The point that the eyes follow, null for none. */
  #gazePoint() {
    const { gaze } = this.controls;
    if (!gaze) return null;
    if (gaze === "camera" || !this.pointer) return this.camera.position();
    // On the pointer's ray, half way to the avatar.
    const view = this.view(this.canvas.clientWidth, this.canvas.clientHeight);
    const [right, down, forward] = this.camera.axes();
    const [x, y] = [(this.pointer[0] - view.cx) / view.fx, (this.pointer[1] - view.cy) / view.fy];
    const reach = 0.5 * this.camera.distance;
    return this.camera.position().map((at, k) => at + reach * (x * right[k] + y * down[k] + forward[k]));
  }

  #focus(x, y) {
    if (!this.avatar) return;
    this.draw();
    const scale = this.canvas.width / this.canvas.clientWidth;
    const point = this.renderer.pick(x * scale, y * scale);
    if (!point) return;
    const distance = Math.min(this.camera.distance, Math.max(0.5 * this.camera.distance, this.#limits()[0]));
    this.#goTo({ target: [...point], distance });
  }

  #limits() {
    const radius = this.avatar?.bounds.radius ?? 1;
    return [0.06 * radius, 20 * radius];
  }

  #listen() {
    const actions = {
      turn: (azimuth, elevation) => {
        this.camera.orbit(azimuth, elevation);
        this.redraw();
      },
      move: (dx, dy) => {
        this.glide = null;
        this.camera.pan(dx, dy, this.#free().height);
        this.redraw();
      },
      zoom: (factor) => {
        this.glide = null;
        this.camera.zoom(factor, this.#limits());
        this.redraw();
      },
      focus: (x, y) => this.#focus(x, y),
      hover: (x, y) => {
        this.pointer = [x, y];
        if (this.controls.gaze === "pointer") this.redraw();
      },
      layer: (index) => this.controls.layer(index),
      reset: () => this.frame("whole"),
      face: () => this.frame("face"),
      help: () => byId("keys").showModal(),
      step: (frames) => this.timeline.step(frames),
      play: () => this.timeline.toggle(),
      loop: () => this.timeline.toggleLoop(),
      background: () => this.controls.nextBackground(),
      highlights: () => this.controls.toggleHighlights(),
      panel: () => this.#showPanel(byId("panel").hidden),
      fullScreen: () => this.#fullScreen(),
      screenshot: () => this.screenshot(),
      share: () => this.share(),
      turntable: () => byId("turntable").click(),
    };
    listen(this.canvas, actions);
    listenToKeys(actions);
    const buttons = {
      screenshot: "screenshot",
      share: "share",
      "full-screen": "fullScreen",
      help: "help",
      "open-panel": "panel",
      reset: "reset",
      face: "face",
    };
    for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", () => actions[action]());
    byId("turntable").addEventListener("input", () => this.redraw());
    byId("open-file").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", (event) => {
      if (event.target.files[0]) this.open(event.target.files[0]);
      event.target.value = "";
    });
    this.#listenToDrops();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    document.addEventListener("fullscreenchange", () => {
      const full = Boolean(document.fullscreenElement);
      setIcon(byId("full-screen"), full ? "shrink" : "expand");
      byId("full-screen").setAttribute("aria-pressed", full);
    });
    byId("full-screen").hidden = !document.fullscreenEnabled;
  }

  #listenToDrops() {
    addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dragging");
    });
    addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dragging");
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
  }

  #showPanel(shown) {
    byId("panel").hidden = !shown;
    byId("open-panel").setAttribute("aria-expanded", shown);
    this.redraw();
  }

  #fullScreen() {
    const done = document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
    done.catch((error) => this.say(error.message));
  }
}
