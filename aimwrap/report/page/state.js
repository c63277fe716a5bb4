// What the reader has chosen. It is in the address, so that a view can be reloaded, kept and sent.

const usual = Object.freeze({
  sort: comparing ? "difference" : "confidence of the truth",
  reversed: false,
  by: 0, // number of the model whose values sort and filter
  group: null,
  label: null,
  predicted: null,
  outcome: "all",
  low: null, // of energy pointing, in per cent
  high: null,
  text: "",
  overlay: usualOverlay,
  object: false,
  plain: false,
  image: null, // open in the large view
});
const filtering = ["group", "label", "predicted", "outcome", "low", "high", "text"];
const state = { ...usual };

const whole = (limit) => (text) => (/^\d{1,9}$/.test(text) && Number(text) < limit ? Number(text) : undefined);
const oneOf = (names) => (text) => (names.includes(text) ? text : undefined);
const flag = (text) => (text === "yes" ? true : undefined);

// What each part may be: an address is as little to be trusted as a file's name.
const readers = {
  sort: (text) => (sorts.some((sort) => sort.name === text) ? text : undefined),
  reversed: flag,
  by: whole(models.length),
  group: whole(groups ? groups.length : 0),
  label: whole(classes.length),
  predicted: whole(classes.length),
  outcome: (text) => (outcomes.some((outcome) => outcome.name === text) ? text : undefined),
  low: whole(101),
  high: whole(101),
  text: (text) => text,
  overlay: oneOf(overlays.map((overlay) => overlay.name)),
  object: flag,
  plain: flag,
  image: whole(images.length),
};

/** Take over what the address says; the rest is as usual. */
function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, usual);
  for (const [name, read] of Object.entries(readers)) {
    const value = said.has(name) ? read(said.get(name)) : undefined;
    if (value !== undefined) state[name] = value;
  }
}

/** Write what differs from the usual into the address. */
function writeAddress() {
  const said = new URLSearchParams();
  for (const name of Object.keys(usual)) {
    if (state[name] !== usual[name]) said.set(name, state[name] === true ? "yes" : String(state[name]));
  }
  const hash = said.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}
