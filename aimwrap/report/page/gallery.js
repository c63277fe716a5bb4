// The cards, a screenful or two at a time: thousands of them at once would make any browser slow.

const CHUNK = 48;
let chosen = []; // numbers of the images that are left, in order
let hung = 0; // how many of them have their card

const nearEnd = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && hangMore(), { rootMargin: "600px" });

/** Choose again and show from the start. */
function showChosen() {
  chosen = choose();
  hung = 0;
  byId("cards").replaceChildren();
  hangMore();
  byId("nothing").hidden = chosen.length > 0;
  byId("count").replaceChildren(...countWords());
  fadeMarks(new Set(chosen));
}

function hangMore(enough = hung + CHUNK) {
  const next = chosen.slice(hung, enough);
  byId("cards").append(...next.map(makeCard));
  hung += next.length;
  byId("more").hidden = hung >= chosen.length;
  nearEnd.unobserve(byId("more")); // and again, so that it reports again if it is still in sight
  if (hung < chosen.length) nearEnd.observe(byId("more"));
  if (hung > 0 && performance.getEntriesByName("first card").length === 0) performance.mark("first card");
}

/** How many are left, and how many of these each model gets right. */
function countWords() {
  const shares = shownModels(state).map((index) => {
    const right = chosen.filter((at) => images[at].by_model[index].right).length;
    const said = `${right.toLocaleString("en")} right`;
    return models.length > 1 ? [badge(index), make("span", { class: "unseen" }, `${shorten(models[index].name, 30)}: `), ` ${said}`] : [said];
  });
  const left = chosen.length === images.length ? counted(images.length, "image") : `${chosen.length.toLocaleString("en")} of ${counted(images.length, "image")}`;
  return [make("strong", {}, left), ...(chosen.length ? shares.flatMap((share) => [" ", make("span", {}, ...share)]) : [])];
}

/** The card of an image, hung if need be; null if it is not among those that are left. */
function cardOf(index) {
  const at = chosen.indexOf(index);
  if (at < 0) return null;
  if (at >= hung) hangMore(at + CHUNK);
  return byId("cards").children[at];
}

/** Go to an image's card, taking filters away if they hide it. */
function goToCard(index) {
  if (cardOf(index) === null) resetFilters();
  const button = cardOf(index).querySelector(".open");
  button.focus();
  button.scrollIntoView({ block: "center" });
}

/** Show an overlay on every card. */
function showOverlay() {
  const overlay = overlayOf(state.overlay);
  for (const card of byId("cards").children) {
    card.classList.remove("peeking");
    showOn(card, overlay);
  }
  byId("overlay-legend").replaceChildren(...legendOf(overlay), state.object ? " White line: the object." : "");
}
