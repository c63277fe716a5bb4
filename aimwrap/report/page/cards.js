// A card: one image, what the models say of it, and a button that opens it.

function makeCard(index) {
  const image = images[index];
  const shown = shownModels(state);
  const overlay = overlayOf(state.overlay);
  const views = shown.map((model) => makeView(index, model, overlay));
  const open = make("button", { type: "button", class: "open", "aria-haspopup": "dialog", "aria-label": described(image, shown) }, ...views);
  open.addEventListener("click", () => openLarge(index));
  const title = make("p", { class: "label", title: classOf(image.label) }, isolated(classOf(image.label)));
  const card = make("li", { class: `card models-${shown.length}`, "data-index": index }, open, title);
  card.append(make("div", { class: "said" }, ...shown.map((model) => said(image, model, shown.length > 1))));
  card.append(make("p", { class: "id", title: image.id }, isolated(image.id)));
  card.addEventListener("pointerenter", ({ pointerType }) => pointerType === "touch" || peek(card));
  card.addEventListener("pointerleave", () => endPeek(card));
  open.addEventListener("focus", () => open.matches(":focus-visible") && peek(card));
  open.addEventListener("blur", () => endPeek(card));
  return card;
}

/** What one model says of an image: right or wrong, what else it took it for, how sure it is, where it looked. */
function said(image, index, several) {
  const seen = image.by_model[index];
  const line = make("p", { class: "answer" }, several ? badge(index) : null, verdict(seen));
  const name = classOf(seen.predicted);
  const predicted = make("p", { class: "predicted", title: name }, make("span", {}, "predicted "), isolated(name));
  line.append(make("span", { class: "sure", title: "confidence in the predicted class" }, percent(seen.confidence)));
  const facts = make("p", { class: "looked" });
  if (seen.energy_pointing !== null) facts.append(make("span", {}, `pointing ${percent(seen.energy_pointing)}`));
  if (seen.area !== null) facts.append(make("span", {}, `area ${percent(seen.area)}`));
  if (looksTwice(index)) facts.append(make("span", {}, `kept ${percent(seen.kept_area)}`));
  return make("div", { class: "by-model" }, line, predicted, facts);
}

/** The bare image while a card is looked at; where bare images are shown, the usual overlay. */
function peek(card) {
  showOn(card, overlayOf(state.overlay === IMAGE ? usualOverlay : IMAGE));
  card.classList.add("peeking");
}

function endPeek(card) {
  if (!card.classList.contains("peeking")) return;
  card.classList.remove("peeking");
  showOn(card, overlayOf(state.overlay));
}

function showOn(card, overlay) {
  for (const view of card.querySelectorAll(".view")) changeView(view, overlay);
}
