// The overlays of an image, and their keys. The object's outline goes with any of them.

const IMAGE = "image";
const MERGED = "merged";
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
  { name: CONTRIBUTIONS, key: "c", label: "Contributions" },
];
const usualOverlay = models[0].kind === "aim" ? MERGED : CONTRIBUTIONS; // of what is reported on
const overlayOf = (name) => overlays.find((overlay) => overlay.name === name) ?? overlays[0];

/** The cells of a model's mask that an overlay shows, with their grid; null where the model has none. */
function maskFor(overlay, image, index) {
  const seen = image.by_model[index];
  if (overlay.name === MERGED || overlay.name === CONTRIBUTIONS) {
    const { grid } = models[index];
    return seen.merged === null ? null : { grid, cells: decodeBits(seen.merged, grid) };
  }
  const stage = stagesOf[index][overlay.stage];
  const bits = seen.masks[overlay.stage];
  return stage && bits !== undefined ? { grid: stage.grid, cells: decodeBits(bits, stage.grid) } : null;
}

/** Whether a model has something to show for an overlay. */
const has = (index, overlay) =>
  overlay.name === IMAGE || overlay.name === CONTRIBUTIONS
    || (overlay.name === MERGED ? models[index].kind === "aim" : overlay.stage in stagesOf[index]);

/** A legend for an overlay: what its colours say. */
function legendOf(overlay) {
  const sample = (name) => make("span", { class: `sample ${name}`, "aria-hidden": "true" });
  if (overlay.name === IMAGE) return ["The image as the model saw it."];
  if (overlay.name === CONTRIBUTIONS) {
    return [
      sample("takes"), "speaks against the predicted class ", sample("scale"), " speaks for it ", sample("adds"),
      "Full colour is the image's own strongest contribution", anyMask ? "; outside the merged mask it is exactly 0." : ".",
    ];
  }
  const which = overlay.name === MERGED ? "the decision may use" : "this stage lets through";
  return [sample("lit"), `what ${which}; `, sample("dimmed"), "what it may not."];
}
