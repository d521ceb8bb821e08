// Icons as paths of a 20 × 20 drawing, stroked. Elements ask for one by their attribute data-icon.

import { makeSvg } from "./dom.js";

const PATHS = {
  camera: "M3 6.5h2.6L7 4.5h6l1.4 2H17a1 1 0 0 1 1 1V15a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1V7.5a1 1 0 0 1 1-1ZM10 13.6a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6Z",
  share: "M10 12V2.5M6.5 5.5 10 2.2l3.5 3.3M6 9H4.5v8.5h11V9H14",
  expand: "M3 7.5V3h4.5M12.5 3H17v4.5M17 12.5V17h-4.5M7.5 17H3v-4.5",
  shrink: "M7.5 3v4.5H3M17 7.5h-4.5V3M12.5 17v-4.5H17M3 12.5h4.5V17",
  keyboard: "M2.5 5h15a.5.5 0 0 1 .5.5v9a.5.5 0 0 1-.5.5h-15a.5.5 0 0 1-.5-.5v-9a.5.5 0 0 1 .5-.5ZM5 8.3h.01M8.3 8.3h.01M11.7 8.3h.01M15 8.3h.01M6.5 11.8h7",
  sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M12 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM8 16a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z",
  play: "M6 3.8v12.4L16 10Z",
  pause: "M7 4v12M13 4v12",
  loop: "M4 10V8.5A2.5 2.5 0 0 1 6.5 6H16M13.5 3.5 16 6l-2.5 2.5M16 10v1.5a2.5 2.5 0 0 1-2.5 2.5H4M6.5 16.5 4 14l2.5-2.5",
  close: "M5 5l10 10M15 5 5 15",
};

export function setIcon(element, name) {
  if (element.dataset.icon === name && element.firstElementChild) return;
  element.dataset.icon = name;
  const icon = makeSvg("svg", { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" });
  icon.append(makeSvg("path", { d: PATHS[name] }));
  element.replaceChildren(icon);
}

export function drawIcons() {
  for (const element of document.querySelectorAll("[data-icon]")) setIcon(element, element.dataset.icon);
}
