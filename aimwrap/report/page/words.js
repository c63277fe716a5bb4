// Numbers and names for readers.

const percent = (share, digits = 0) => (share === null ? "–" : `${(100 * share).toFixed(digits)}%`);
const counted = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;
const classOf = (label) => classes[label] ?? `class ${label}`;

/** Names can be hundreds of characters long; here they only have to be distinguishable. */
function shorten(text, length = 60) {
  const characters = Array.from(text);
  return characters.length > length ? characters.slice(0, length - 1).join("") + "…" : text;
}

/** An image in one sentence, for those who do not see its card. */
function described(image, indices) {
  const verdicts = indices.map((index) => {
    const seen = image.by_model[index];
    const who = models.length > 1 ? `${shorten(models[index].name, 30)}: ` : "";
    return `${who}${seen.right ? "right" : `wrong, predicted ${shorten(classOf(seen.predicted), 40)}`}, ${percent(seen.confidence)}`;
  });
  return [`${shorten(image.id)}, ${shorten(classOf(image.label), 40)}`, ...verdicts].join("; ");
}

/** The letter of a model. */
function badge(index) {
  const { role } = models[index];
  return make("span", { class: `badge role-${role}`, "aria-hidden": "true" }, LETTERS[role]);
}

/** Right or wrong: a sign, a word and a colour. */
function verdict(seen) {
  const said = seen.right ? "right" : "wrong";
  const sign = make("span", { "aria-hidden": "true" }, seen.right ? "✓" : "✗");
  return make("span", { class: `verdict ${said}` }, sign, ` ${said}`);
}
