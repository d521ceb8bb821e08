"use strict";
// The cards are in the page. This orders and hides them, and plays a card's turntable.
{
  const $ = (id) => document.getElementById(id);
  const list = $("cards"), cards = [...list.children];
  const find = $("find"), order = $("order"), reverse = $("reverse"), view = $("view"), chips = [...$("states").children];
  const collator = new Intl.Collator(undefined, { numeric: true });
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const textOf = (card, part) => card.querySelector(part)?.textContent ?? "";
  const words = new Map(); // the text of each card that is searched, once it is needed

  function searched(card) {
    if (!words.has(card)) words.set(card, plain([...card.querySelectorAll("h2, .text, .reason, .notes")].map((part) => part.textContent).join("\n")));
    return words.get(card);
  }

  function filter() {
    const state = chips.find((chip) => chip.ariaPressed === "true").dataset.state;
    const wanted = plain(find.value).split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      card.hidden = !((!state || card.dataset.state === state) && wanted.every((word) => searched(card).includes(word)));
      if (!card.hidden) count++;
    }
    $("shown").textContent = count === cards.length ? "" : `${count.toLocaleString("en")} of ${cards.length.toLocaleString("en")}`;
  }

  function sort() {
    const sign = reverse.ariaPressed === "true" ? -1 : 1, key = order.value;
    const part = { name: "h2", text: ".text" }[key], figure = order.selectedOptions[0].dataset.figure;
    const read = part ? (card) => textOf(card, part) : (card) => card.dataset.figures.split(",")[figure];
    const rows = cards.map((card, place) => [key ? read(card) : place, card, place]);
    rows.sort(([a, , i], [b, , j]) => {
      if (!key) return sign * (i - j);
      if (a === "" || b === "") return (a === "") - (b === "") || i - j; // without a figure: last, in both directions
      return sign * (part ? collator.compare(a, b) : a - b) || i - j;
    });
    list.replaceChildren(); // at once: taken away one by one from the front, ten thousand cards take minutes
    const sorted = document.createDocumentFragment();
    for (const [, card] of rows) sorted.append(card);
    list.append(sorted);
  }

  // What is set is kept in the address: it survives a reload, which shows how the batch goes on.
  function keep() {
    const kept = new URLSearchParams();
    const state = chips.find((chip) => chip.ariaPressed === "true").dataset.state;
    if (state) kept.set("state", state);
    if (find.value) kept.set("find", find.value);
    if (order.value) kept.set("order", order.value);
    if (reverse.ariaPressed === "true") kept.set("reverse", "");
    if (view.value !== "front") kept.set("view", view.value);
    history.replaceState(null, "", `#${kept}`);
  }

  function press(pressed) {
    for (const chip of chips) chip.ariaPressed = String(chip === pressed);
  }

  function restore() {
    const kept = new URLSearchParams(location.hash.slice(1));
    press(chips.find((chip) => chip.dataset.state === kept.get("state")) ?? chips[0]);
    find.value = kept.get("find") ?? "";
    for (const [select, name] of [[order, "order"], [view, "view"]]) {
      if ([...select.options].some((option) => option.value === kept.get(name))) select.value = kept.get(name);
    }
    reverse.ariaPressed = String(kept.has("reverse"));
    list.dataset.view = view.value;
    if (order.value || kept.has("reverse")) sort();
    if (kept.has("state") || find.value) filter();
    turnArrow();
  }

  const turnArrow = () => { reverse.textContent = reverse.ariaPressed === "true" ? "↑" : "↓"; };

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const chip of chips) chip.addEventListener("click", () => { press(chip); filter(); keep(); });
  let waiting = 0;
  find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { filter(); keep(); }, 80); });
  order.addEventListener("change", () => { sort(); keep(); });
  reverse.addEventListener("click", () => { reverse.ariaPressed = String(reverse.ariaPressed !== "true"); turnArrow(); sort(); keep(); });
  view.addEventListener("change", () => { list.dataset.view = view.value; keep(); });

  // Where a card is unfolded, all of its prompt shows, and its neighbours stay as they are.
  list.addEventListener("toggle", (event) => {
    event.target.parentNode.classList.toggle("open", event.target.open);
    list.classList.toggle("unfolded", list.querySelector(".open") !== null);
  }, true);

  // One turntable at a time: of the card under the pointer, with the focus, or touched.
  let playing = null;
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  function stop() {
    playing?.video.remove();
    playing = null;
  }

  function play(card) {
    if (playing?.card === card) return;
    stop();
    if (!card?.dataset.turntable) return;
    const video = document.createElement("video");
    Object.assign(video, { muted: true, loop: true, playsInline: true, preload: "none", src: card.dataset.turntable });
    video.setAttribute("aria-hidden", "true");
    video.addEventListener("playing", () => video.classList.add("playing"), { once: true });
    video.addEventListener("error", () => { if (playing?.video === video) stop(); });
    card.querySelector(".view").append(video);
    playing = { card, video };
    video.play().catch(() => {}); // it was removed before it began
  }

  const cardOf = (event) => event.target.closest?.(".card");
  list.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse" && !still.matches) play(cardOf(event)); });
  list.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") stop(); });
  list.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible") && !still.matches) play(cardOf(event)); });
  list.addEventListener("focusout", (event) => { if (!list.contains(event.relatedTarget)) stop(); });
  // A finger has no hover: it plays and stops; the name is the link then.
  list.addEventListener("click", (event) => {
    const card = cardOf(event);
    if (!event.target.closest(".view") || !card.dataset.turntable || event.pointerType !== "touch") return;
    event.preventDefault();
    if (playing?.card === card) stop();
    else play(card);
  });

  $("controls").hidden = false;
  restore();
}
