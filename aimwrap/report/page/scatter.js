// Energy pointing of two models against each other, one mark per image: above the diagonal, the one upwards points better.

const SIDE = 440;
const MARGIN = { left: 56, bottom: 52, top: 10, right: 26 };
const across = (share) => MARGIN.left + share * SIDE;
const upwards = (share) => MARGIN.top + (1 - share) * SIDE;
const SHAPES = { right: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", wrong: "M-4-4L4 4M-4 4L4-4" };
let marks = []; // {index, link}, from left to right

/** Draw when it comes near, so that the gallery need not wait, or is printed. */
function wireScatter() {
  if (!byId("scatter")) return;
  const select = byId("scatter-pair");
  const pair = () => (select ? select.value.split(",").map(Number) : ["plain" in number ? number.plain : number.other, number.model]);
  select?.addEventListener("change", () => drawScatter(...pair()));
  const drawOnce = () => marks.length || drawScatter(...pair());
  new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && drawOnce(), { rootMargin: "400px" }).observe(byId("pointing"));
  window.addEventListener("beforeprint", drawOnce);
}

function drawScatter(x, y) {
  const pointing = (image, model) => image.by_model[model].energy_pointing;
  const both = images
    .map((image, index) => ({ image, index, x: pointing(image, x), y: pointing(image, y) }))
    .filter((mark) => mark.x !== null && mark.y !== null);
  const plot = draw("svg", {
    viewBox: `0 0 ${MARGIN.left + SIDE + MARGIN.right} ${MARGIN.top + SIDE + MARGIN.bottom}`,
    role: "group",
    "aria-label": `Energy pointing, ${shorten(models[y].name, 40)} against ${shorten(models[x].name, 40)}: ${counted(both.length, "image")}`,
  });
  plot.append(...axes(x, y), ...chanceLines(x, y));
  marks = both.sort((a, b) => a.x - b.x || a.y - b.y).map((mark) => ({ ...mark, link: markOf(mark, x, y) }));
  const ordered = [...marks].sort((a, b) => b.image.by_model[y].right - a.image.by_model[y].right); // wrong ones on top
  plot.append(draw("g", { class: both.length > 1000 ? "marks many" : "marks" }, ...ordered.map((mark) => mark.link)));
  byId("scatter").replaceChildren(plot, make("div", { class: "preview", id: "preview", hidden: true }));
  marks[0]?.link.setAttribute("tabindex", "0");
  wirePlot(plot);
  sayScatter(both, x, y);
  fadeMarks(new Set(chosen));
}

function axes(x, y) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    draw("line", { class: "grid", x1: across(share), x2: across(share), y1: upwards(0), y2: upwards(1) }),
    draw("line", { class: "grid", x1: across(0), x2: across(1), y1: upwards(share), y2: upwards(share) }),
    draw("text", { x: across(share), y: upwards(0) + 18, "text-anchor": "middle" }, percent(share)),
    draw("text", { x: across(0) - 8, y: upwards(share) + 4, "text-anchor": "end" }, percent(share)),
  ]);
  const label = (index) => shorten(`${LETTERS[models[index].role]}: ${models[index].name}`, 44);
  return [
    ...ticks,
    draw("line", { class: "diagonal", x1: across(0), y1: upwards(0), x2: across(1), y2: upwards(1) }),
    draw("text", { class: "axis", x: across(0.5), y: upwards(0) + 42, "text-anchor": "middle" }, label(x)),
    draw("text", { class: "axis", x: 0, y: 0, "text-anchor": "middle", transform: `translate(14 ${upwards(0.5)}) rotate(-90)` }, label(y)),
    draw("text", { class: "side", x: across(0.03), y: upwards(0.95) }, `${LETTERS[models[y].role]} points better`),
    draw("text", { class: "side", x: across(0.97), y: upwards(0.03), "text-anchor": "end" }, `${LETTERS[models[x].role]} points better`),
  ];
}

function chanceLines(x, y) {
  const [vertical, horizontal] = [scoreOf(x, "chance"), scoreOf(y, "chance")];
  return [
    vertical === null ? null : draw("line", { class: "chance", x1: across(vertical), x2: across(vertical), y1: upwards(0), y2: upwards(1) }),
    horizontal === null ? null : draw("line", { class: "chance", x1: across(0), x2: across(1), y1: upwards(horizontal), y2: upwards(horizontal) }),
  ].filter((line) => line !== null);
}

function markOf({ image, index, x: left, y: up }, x, y) {
  const said = image.by_model[y].right ? "right" : "wrong";
  const label = `${shorten(image.id)}: ${LETTERS[models[x].role]} ${percent(left)}, ${LETTERS[models[y].role]} ${percent(up)}, ${said}`;
  const shape = draw("path", { class: said, d: SHAPES[said], transform: `translate(${across(left).toFixed(1)} ${upwards(up).toFixed(1)})` });
  return draw("a", { href: `#image=${index}`, "aria-label": label, tabindex: "-1", "data-index": index }, shape);
}

/** One stop for the tab key; the arrow keys go on from there. */
function wirePlot(plot) {
  const markAt = (event) => marks.find((mark) => mark.link === event.target.closest("a"));
  plot.addEventListener("click", (event) => {
    const mark = markAt(event);
    if (!mark) return;
    event.preventDefault();
    openLarge(mark.index, focusMark);
  });
  plot.addEventListener("keydown", (event) => {
    const at = marks.indexOf(markAt(event));
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    if (marks[to]) focusMark(marks[to].index);
  });
  for (const name of ["pointerover", "focusin"]) plot.addEventListener(name, (event) => showPreview(markAt(event)));
  for (const name of ["pointerleave", "focusout"]) plot.addEventListener(name, () => showPreview(undefined));
}

function focusMark(index) {
  const mark = marks.find((candidate) => candidate.index === index);
  if (!mark) return goToCard(index);
  for (const { link } of marks) link.setAttribute("tabindex", link === mark.link ? "0" : "-1");
  mark.link.focus();
}

/** The image next to its mark. */
function showPreview(mark) {
  const preview = byId("preview");
  preview.hidden = mark === undefined;
  if (mark === undefined) return;
  const frame = byId("scatter").getBoundingClientRect();
  const at = mark.link.getBoundingClientRect();
  preview.replaceChildren(make("img", { src: mark.image.thumbnail, alt: "" }), isolated(classOf(mark.image.label)), isolated(mark.image.id));
  const right = at.left - frame.left > frame.width / 2;
  preview.style.left = right ? "auto" : `${at.right - frame.left + 8}px`;
  preview.style.right = right ? `${frame.right - at.left + 8}px` : "auto";
  preview.style.top = `${Math.max(0, Math.min(at.top - frame.top - 40, frame.height - 190))}px`;
}

function sayScatter(both, x, y) {
  const better = both.filter((mark) => mark.y > mark.x).length;
  const worse = both.filter((mark) => mark.y < mark.x).length;
  const bold = (index) => isolated(shorten(models[index].name), { class: "strong" });
  const left = images.length - both.length;
  byId("scatter-words").replaceChildren(
    badge(y), " ", bold(y), ` points better in ${better.toLocaleString("en")} of ${counted(both.length, "image")}, `, badge(x), " ", bold(x), ` in ${worse.toLocaleString("en")}.`,
    left ? ` ${counted(left, "image")} without a score in one of the two ${left === 1 ? "is" : "are"} left out.` : "",
  );
  const legend = (name, words) => make("li", {}, draw("svg", { viewBox: "-6 -6 12 12", class: "marks", "aria-hidden": "true" }, draw("path", { class: name, d: SHAPES[name] })), ...words);
  const line = (name, words) => make("li", {}, draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, draw("line", { class: name, x1: 0, x2: 12, y1: 6, y2: 6 })), words);
  byId("scatter-legend").replaceChildren(
    legend("right", [badge(y), " right"]), legend("wrong", [badge(y), " wrong"]), line("diagonal", "equal scores"), line("chance", "chance level"),
  );
}

/** Fade the marks of images that the filters leave out. */
function fadeMarks(left) {
  for (const { index, link } of marks) link.classList.toggle("faded", !left.has(index));
}
