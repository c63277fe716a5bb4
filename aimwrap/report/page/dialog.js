// The large view: one image with everything that is known of it.

let openedFrom = null; // called with the image's number when the view closes, to put the focus back

/** Open the large view, by default to return to the image's card. */
function openLarge(index, returnTo = null) {
  const dialog = byId("large");
  openedFrom = returnTo;
  fillLarge(index);
  if (!dialog.open) dialog.showModal();
  paintLarge();
  change("image", index);
}

function fillLarge(index) {
  const image = images[index];
  const order = orderAround(index);
  const at = order.indexOf(index);
  const step = (id, label, sign, to) => {
    const button = make("button", { type: "button", id, "aria-label": label, disabled: to === undefined }, sign);
    button.addEventListener("click", () => moveLarge(to, id));
    return button;
  };
  const close = make("button", { type: "button", id: "large-close", "aria-label": "Close" }, "✕");
  close.addEventListener("click", () => byId("large").close());
  const goThere = make("button", { type: "button", id: "large-card" }, "Show its card");
  goThere.addEventListener("click", () => {
    openedFrom = null;
    byId("large").close();
  });
  const head = make(
    "header",
    { class: "large-head" },
    make("h2", { id: "large-title", tabIndex: -1 }, isolated(image.id)),
    make("p", { class: "position" }, `${(at + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`),
    step("large-previous", "Previous image", "←", order[at - 1]),
    step("large-next", "Next image", "→", order[at + 1]),
    close,
  );
  const truth = make("p", { class: "truth" }, "Class ", isolated(classOf(image.label)));
  if (image.group !== null && groups) truth.append(", group ", isolated(groups[image.group] ?? `${image.group}`));
  const body = make("div", { class: "large-body", tabIndex: 0, role: "group", "aria-label": "Overlays and numbers" }, truth, ...models.map((_, model) => rowOf(index, model)), numbersOf(image));
  if (openedFrom) body.append(goThere);
  body.style.setProperty("--columns", Math.min(Math.max(overlays.length, 4), 6));
  byId("large").replaceChildren(head, body);
}

/** The images that the large view walks through: those that are left, or all if this one is not among them. */
const orderAround = (index) => (chosen.includes(index) ? chosen : images.map((_, at) => at));

/** One model's overlays side by side. */
function rowOf(imageIndex, index) {
  const model = models[index];
  const image = images[imageIndex];
  const seen = image.by_model[index];
  const shown = overlays.filter((overlay) => has(index, overlay));
  const figures = shown.map((overlay) =>
    make("figure", {}, makeView(imageIndex, index, overlay, { watched: false, alt: overlay.name === IMAGE ? `Image ${shorten(image.id)}` : "" }), make("figcaption", {}, ...captionOf(overlay, image, index))),
  );
  const answer = make("p", { class: "answer" }, verdict(seen), " ", isolated(classOf(seen.predicted)), make("span", { class: "sure" }, percent(seen.confidence, 1)));
  const title = make("h3", {}, models.length > 1 ? badge(index) : null, " ", isolated(model.name));
  return make("section", { class: "large-row", "aria-label": shorten(model.name) }, make("div", { class: "large-row-head" }, title, answer), make("div", { class: "figures" }, ...figures));
}

function captionOf(overlay, image, index) {
  if (overlay.name === IMAGE) return [make("strong", {}, "Image")];
  if (overlay.name === CONTRIBUTIONS) {
    const { scale } = image.by_model[index].contributions;
    return [make("strong", {}, "Contributions"), ` to “`, isolated(shorten(classOf(image.by_model[index].predicted), 40)), `”, strongest ±${scale.toPrecision(2)}`];
  }
  const { grid: [rows, columns], cells } = maskFor(overlay, image, index);
  const open = cells.reduce((sum, cell) => sum + cell, 0) / cells.length;
  if (overlay.name === KEPT) return [make("strong", {}, "Kept pixels"), ` ${percent(image.by_model[index].kept_area)} of the image`];
  return [make("strong", {}, overlay.name === MERGED ? "Merged mask" : `Mask, stage ${shorten(overlay.stage, 24)}`), ` ${rows} × ${columns}, ${percent(open)} open`];
}

/** The numbers of all models, one column each. */
function numbersOf(image) {
  const rows = [
    ["Confidence in the prediction", "confidence"],
    ["Confidence in the true class", "true_confidence"],
    ["Energy pointing", "energy_pointing"],
    ["Energy pointing at one resolution", "energy_pointing_matched"],
    ["Mask precision", "mask_precision"],
    ["Mask recall", "mask_recall"],
    ["Area of the merged mask", "area"],
    ["Kept pixels", "kept_area"],
  ].filter(([, key]) => image.by_model.some((seen) => (seen[key] ?? null) !== null));
  const head = make("tr", {}, make("td", {}), ...models.map((model, index) => make("th", { scope: "col" }, models.length > 1 ? badge(index) : null, " ", isolated(shorten(model.name, 30)))));
  const body = rows.map(([name, key]) => make("tr", {}, make("th", { scope: "row" }, name), ...image.by_model.map((seen) => make("td", { class: "number" }, percent(seen[key] ?? null, 1)))));
  return make("table", { class: "large-numbers" }, make("thead", {}, head), make("tbody", {}, ...body));
}

/** Go to another image; the focus stays on the button that was pressed, if it still can be. */
function moveLarge(index, pressed = null) {
  if (index === undefined) return;
  fillLarge(index);
  paintLarge();
  change("image", index);
  const button = pressed && byId(pressed);
  (button && !button.disabled ? button : byId("large-title")).focus();
}

const paintLarge = () => byId("large").querySelectorAll(".view").forEach(paintView);

function wireLarge() {
  const dialog = byId("large");
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // outside the view
  dialog.addEventListener("close", () => {
    const index = state.image;
    change("image", null);
    if (index !== null) (openedFrom ?? goToCard)(index);
    openedFrom = null;
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const order = orderAround(state.image);
    const at = order.indexOf(state.image);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moveLarge(order[to]);
  });
}
