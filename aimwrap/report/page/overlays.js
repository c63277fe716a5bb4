// The overlays of an image, and their keys. The object's outline goes with any of them.

const IMAGE = "image";
const MERGED = "merged";
const KEPT = "kept";
const CONTRIBUTIONS = "contributions";
const ofStage = (stage) => `stage ${stage}`;

const overlays = [
  { name: IMAGE, key: "0", label: "Image" },
  ...stageNames.map((stage, index) => ({
    name: ofStage(stage),
    key: index < 9 ? String(index + 1) : null,
    label: `Stage ${shorten(stage, 24)}`,
    stage,
  })),
  ...(anyMask ? [{ name: MERGED, key: "m", label: "Merged" }] : []),
  ...(anySecondLook ? [{ name: KEPT, key: "k", label: "Kept pixels" }] : []),
  { name: CONTRIBUTIONS, key: "c", label: "Contributions" },
];
// What is reported on; both kinds have contributions where a second look is compared with one look.
const usualOverlay = models[0].kind === "aim" ? MERGED : looksTwice(0) && (!comparing || looksTwice(1)) ? KEPT : CONTRIBUTIONS;
const overlayOf = (name) => overlays.find((overlay) => overlay.name === name) ?? overlays[0];

/** The cells of a model's mask that an overlay shows, with their grid; null where the model has none. */
function maskFor(overlay, image, index) {
  const seen = image.by_model[index];
  if ([MERGED, KEPT, CONTRIBUTIONS].includes(overlay.name)) {
    const { grid } = models[index];
    const bits = looksTwice(index) && overlay.name !== MERGED ? seen.kept : seen.merged;
    return bits === null ? null : { grid, cells: decodeBits(bits, grid) };
  }
  const stage = stagesOf[index][overlay.stage];
  const bits = seen.masks[overlay.stage];
  return stage && bits !== undefined ? { grid: stage.grid, cells: decodeBits(bits, stage.grid) } : null;
}

/** Whether a model has something to show for an overlay. */
const has = (index, overlay) =>
  overlay.name === IMAGE || overlay.name === CONTRIBUTIONS || (overlay.name === KEPT && looksTwice(index))
    || (overlay.name === MERGED ? models[index].kind !== "plain" : overlay.stage in stagesOf[index]);

/** The part of the image that a second look sees enlarged, as shares of its sides, where an overlay shows it; or null. */
const boxOf = (overlay, image, index) =>
  looksTwice(index) && [KEPT, CONTRIBUTIONS].includes(overlay.name) ? image.by_model[index].box : null;

/** A legend for an overlay: what its colours say. */
function legendOf(overlay) {
  const sample = (name) => make("span", { class: `sample ${name}`, "aria-hidden": "true" });
  if (overlay.name === IMAGE) return ["The image as the model saw it."];
  if (overlay.name === CONTRIBUTIONS) {
    return [
      sample("takes"), "speaks against the predicted class ", sample("scale"), " speaks for it ", sample("adds"),
      "Full colour is the image's own strongest contribution", models.some(({ kind }) => kind === "aim") ? "; outside the merged mask it is exactly 0." : ".",
      anySecondLook ? " Of a second look it is exactly 0 outside the box (dashed); yellow line: the kept pixels." : "",
    ];
  }
  if (overlay.name === KEPT) return [sample("lit"), "what the second look sees; ", sample("dimmed"), "what it does not. Dashed: its box, which it sees enlarged."];
  const which = overlay.name === MERGED ? "the decision may use" : "this stage lets through";
  return [sample("lit"), `what ${which}; `, sample("dimmed"), "what it may not."];
}
