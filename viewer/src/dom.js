// Small helpers for the page's elements.

export const byId = (id) => document.getElementById(id);

/** A new element with these properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A new SVG element with these attributes. */
export function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** The part of a range input at the left of its thumb, for the style sheet. */
export function showFilled(range) {
  const share = (range.value - range.min) / (range.max - range.min || 1);
  range.style.setProperty("--filled", `${100 * share}%`);
}
