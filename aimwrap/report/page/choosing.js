// Which images are shown, and in which order. Where a value is undefined, the image comes last.

const of = (key) => (image) => image.by_model[state.by][key];
const first = ({ by_model }) => by_model[number.model];
const second = ({ by_model }) => by_model[number.other];

const sorts = [
  ...(comparing ? [{ name: "difference", label: "Largest difference first", value: (_, index) => index }] : []),
  { name: "confidence of the truth", label: "Worst first", value: of("true_confidence") },
  { name: "confidence", label: "Most confident first", value: of("confidence"), falling: true },
  ...(content.data.objects_known
    ? [
        { name: "pointing", label: "Lowest energy pointing first", value: of("energy_pointing") },
        ...(anyMask ? [{ name: "precision", label: "Lowest mask precision first", value: of("mask_precision") }] : []),
      ]
    : []),
  ...(anyMask ? [{ name: "area", label: "Largest area first", value: of("area"), falling: true }] : []),
  { name: "name", label: "Name", value: (image) => image.id },
];

const outcomes = [
  { name: "all", label: "Right and wrong", keeps: () => true },
  { name: "right", label: "Right", keeps: (image) => image.by_model[state.by].right },
  { name: "wrong", label: "Wrong", keeps: (image) => !image.by_model[state.by].right },
  ...(comparing
    ? [
        { name: "only A", label: "Only A right", keeps: (image) => first(image).right && !second(image).right },
        { name: "only B", label: "Only B right", keeps: (image) => second(image).right && !first(image).right },
        { name: "disagree", label: "Different predictions", keeps: (image) => first(image).predicted !== second(image).predicted },
      ]
    : []),
];

function keeps(image) {
  const seen = image.by_model[state.by];
  const pointing = seen.energy_pointing === null ? null : 100 * seen.energy_pointing;
  const bounded = state.low !== null || state.high !== null;
  return (
    (state.group === null || image.group === state.group)
    && (state.label === null || image.label === state.label)
    && (state.predicted === null || seen.predicted === state.predicted)
    && outcomes.find((outcome) => outcome.name === state.outcome).keeps(image)
    && (!bounded || (pointing !== null && pointing >= (state.low ?? 0) && pointing <= (state.high ?? 100)))
    && image.id.toLowerCase().includes(state.text.toLowerCase())
  );
}

const byName = new Intl.Collator("en", { numeric: true }).compare;

/** Numbers of the images that are left, in order; equals stay in the order of the report. */
function choose() {
  const sort = sorts.find((candidate) => candidate.name === state.sort);
  const sign = Boolean(sort.falling) === state.reversed ? 1 : -1;
  const values = new Map();
  for (const [index, image] of images.entries()) if (keeps(image)) values.set(index, sort.value(image, index));
  return [...values.keys()].sort((left, right) => {
    const [a, b] = [values.get(left), values.get(right)];
    if (a === null || b === null) return (a === null) - (b === null) || left - right;
    return sign * (typeof a === "string" ? byName(a, b) : a - b) || left - right;
  });
}
