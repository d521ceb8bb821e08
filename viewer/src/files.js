// Avatars in and out of the page: the one it comes with, dropped files, saved files.

/** The element that holds the packed avatar, as base64, in a self-contained page. */
const DATA = "avatar-data";

/** This page as it was loaded, if it contains its avatar; null if a server provides it. */
export function selfContained() {
  return document.getElementById(DATA) ? document.documentElement.cloneNode(true) : null;
}

/** The packed avatar in a self-contained page, an ArrayBuffer; null if there is none. */
export async function packedIn(page) {
  const text = page.querySelector(`#${DATA}`)?.textContent.trim();
  return text ? decodeBase64(text) : null;
}

/** The text of a self-contained page, with this packed avatar in place of its own if one is given. */
export async function pageText(page, packed = null) {
  const copy = page.cloneNode(true);
  if (packed) copy.querySelector(`#${DATA}`).textContent = await encodeBase64(packed);
  return `<!doctype html>\n${copy.outerHTML}\n`;
}

export function parsePage(text) {
  return new DOMParser().parseFromString(text, "text/html").documentElement;
}

/** The packed avatar in a file that this page can open. Throws an Error that says what to do with others. */
export async function readFile(file) {
  if (/\.html?$/i.test(file.name)) {
    const packed = await packedIn(parsePage(await file.text()));
    if (packed) return packed;
    throw new Error(`${file.name} is not a page that was saved from this viewer`);
  }
  throw new Error(`Here only pages saved as .html open. For ${file.name}: specularip view ${file.name}`);
}

/** Save a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A title as a file name without suffix. */
export function fileName(title) {
  return title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "avatar";
}

function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes.buffer;
}

function encodeBase64(buffer) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(new Blob([buffer]));
  });
}
