// The form above the gallery, and the row of overlays.

const fields = {}; // by the name of what they set

function makeControls() {
  const form = byId("filter-form");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(
    choice("sort", "Sort", sorts.map((sort) => [sort.name, sort.label])),
    tick("reversed", "Reverse"),
    ...(models.length > 1 ? [choice("by", "By the values of", models.map((model, index) => [index, `${LETTERS[model.role]}: ${shorten(model.name, 30)}`]))] : []),
    ...(groups ? [choice("group", "Group", [["", "All groups"], ...groups.map((name, index) => [index, shorten(name)])])] : []),
    choice("label", "Class", [["", "All classes"], ...classes.map((name, index) => [index, shorten(name)])]),
    choice("outcome", "Outcome", outcomes.map((outcome) => [outcome.name, outcome.label])),
    choice("predicted", "Predicted", [["", "Any class"], ...classes.map((name, index) => [index, shorten(name)])]),
    ...(content.data.objects_known ? [pointingRange()] : []),
    search(),
    ...("plain" in number && models.length > 1 ? [tick("plain", "Plain next to it")] : []),
    resetButton(),
  );
  byId("overlay-choice").append(overlayRow());
  byId("reset-nothing").addEventListener("click", resetFilters);
  byId("more").addEventListener("click", () => hangMore());
}

function choice(name, label, options) {
  const select = make("select", { id: `choice-${name}` }, ...options.map(([value, text]) => make("option", { value }, text)));
  const numbers = typeof usual[name] !== "string";
  select.addEventListener("change", () => change(name, numbers ? (select.value === "" ? null : Number(select.value)) : select.value));
  fields[name] = { show: (value) => (select.value = value ?? "") };
  return make("label", { class: "field" }, label, select);
}

function tick(name, label) {
  const box = make("input", { type: "checkbox", id: `choice-${name}` });
  box.addEventListener("change", () => change(name, box.checked));
  fields[name] = { show: (value) => (box.checked = value) };
  return make("label", { class: "field tick" }, box, label);
}

function pointingRange() {
  const end = (name, label, placeholder) => {
    const input = make("input", { type: "number", min: 0, max: 100, step: 1, placeholder, id: `choice-${name}`, "aria-label": label });
    input.addEventListener("input", () => {
      const value = input.value === "" ? null : Math.min(100, Math.max(0, Math.round(Number(input.value))));
      change(name, value);
    });
    fields[name] = { show: (value) => document.activeElement === input || (input.value = value ?? "") };
    return input;
  };
  return make(
    "fieldset",
    { class: "field range" },
    make("legend", {}, "Energy pointing, %"),
    end("low", "Energy pointing from, per cent", "0"),
    make("span", { "aria-hidden": "true" }, "to"),
    end("high", "Energy pointing to, per cent", "100"),
  );
}

function search() {
  const input = make("input", { type: "search", id: "choice-text", placeholder: "part of the name", spellcheck: false });
  input.addEventListener("input", () => change("text", input.value));
  fields.text = { show: (value) => document.activeElement === input || (input.value = value) };
  return make("label", { class: "field" }, "File", input);
}

function resetButton() {
  const button = make("button", { type: "button", id: "reset" }, "Reset the filters");
  button.addEventListener("click", resetFilters);
  return button;
}

function overlayRow() {
  const row = make("fieldset", { class: "segmented" }, make("legend", { class: "unseen" }, "Overlay"));
  for (const overlay of overlays) {
    const input = make("input", { type: "radio", name: "overlay", value: overlay.name });
    input.addEventListener("change", () => change("overlay", overlay.name));
    row.append(make("label", {}, input, make("span", {}, overlay.label, overlay.key ? make("kbd", { "aria-hidden": "true" }, overlay.key) : null)));
  }
  fields.overlay = { show: (value) => (row.querySelector(`[value="${CSS.escape(value)}"]`).checked = true) };
  if (!content.data.objects_known) return row;
  const button = make("button", { type: "button", id: "object", class: "toggle" }, "Object", make("kbd", { "aria-hidden": "true" }, "o"));
  button.addEventListener("click", () => change("object", !state.object));
  fields.object = { show: (value) => button.setAttribute("aria-pressed", value) };
  return make("div", { class: "overlay-row" }, row, button);
}

/** Change one part of the state and show what follows from it. */
function change(name, value) {
  state[name] = value;
  if (name === "image") writeAddress();
  else showState(!["overlay", "object"].includes(name));
}

function resetFilters() {
  for (const name of filtering) state[name] = usual[name];
  if (document.activeElement?.matches("#reset, #reset-nothing")) byId("choice-sort").focus(); // the button goes
  showState();
  for (const name of ["low", "high", "text"]) if (fields[name]) byId(`choice-${name}`).value = "";
}

/** Bring the page in line with the state. */
function showState(chooseAgain = true) {
  for (const [name, field] of Object.entries(fields)) field.show(state[name]);
  const sort = sorts.find((candidate) => candidate.name === state.sort);
  byId("order-words").textContent = `${sort.label}${state.reversed ? ", reversed" : ""}.`;
  byId("reset").hidden = filtering.every((name) => state[name] === usual[name]);
  if (chooseAgain) showChosen();
  showOverlay();
  writeAddress();
}
