// Facial actions for people: one slider for both sides of the face.

/**
 * The actions [{words, indices}] of these names. mouthSmileLeft and mouthSmileRight are one, "mouth smile";
 * jawLeft and jawRight, which move all of the jaw, are two.
 */
export function slidersOf(names) {
  const groups = new Map();
  names.forEach((name, index) => {
    const words = name
      .replace(/([A-Z][a-z]+)(Left|Right)$/, "$1")
      .replace(/[._-]+/g, " ")
      .replace(/([a-z])([A-Z])/g, "$1 $2")
      .toLowerCase();
    if (!groups.has(words)) groups.set(words, []);
    groups.get(words).push(index);
  });
  return [...groups].map(([words, indices]) => ({ words, indices }));
}
