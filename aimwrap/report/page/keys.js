// Keys that work anywhere but in a field, and the arrow keys between cards.

const typing = (target) => target.closest?.("select, textarea, input:not([type=radio], [type=checkbox])") != null;

function wireKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented || typing(event.target)) return;
    const overlay = overlays.find(({ key }) => key !== null && key === event.key.toLowerCase());
    if (overlay && !byId("large").open) change("overlay", overlay.name);
    else if (event.key.toLowerCase() === "o" && content.data.objects_known) toggleObject();
    else if (event.key === "/" && !byId("large").open) goToSearch(event);
    else if (event.target.matches?.(".open")) walkCards(event);
  });
}

function toggleObject() {
  change("object", !state.object);
  if (byId("large").open) paintLarge();
}

function goToSearch(event) {
  event.preventDefault();
  byId("filters").open = true;
  byId("choice-text").focus();
}

/** From card to card, by their position on the page. */
function walkCards(event) {
  const cards = [...byId("cards").children];
  const at = cards.indexOf(event.target.closest(".card"));
  const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const to = event.key in steps ? at + steps[event.key] : { Home: 0, End: cards.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  cards[to]?.querySelector(".open").focus();
}
