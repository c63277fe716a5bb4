// Overlays on a canvas over the image: transparent where the image shows.

const CLOSED = "rgba(8, 9, 12, 0.8)";
const UNUSED = "rgba(8, 9, 12, 0.5)"; // around contributions, where the image is grey already
const MASK_LINE = "#F0E442";
const OBJECT_LINE = "#FFFFFF";
const ADDS = "213, 94, 0"; // Okabe and Ito's vermilion and blue
const TAKES = "0, 114, 178";
const WHOLE = [0, 0, 1, 1];

/** Paint an overlay of one model, and the object's outline where asked for. */
function paint(canvas, image, index, overlay, outlined) {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  const line = Math.max(1, canvas.width / 130);
  if (overlay.name !== IMAGE) {
    const mask = maskFor(overlay, image, index);
    const contributions = overlay.name === CONTRIBUTIONS;
    const box = boxOf(overlay, image, index);
    if (mask) fill(context, mask.grid, (at) => (mask.cells[at] ? null : contributions ? UNUSED : CLOSED));
    if (contributions) {
      const shares = decodeContributions(image.by_model[index].contributions);
      fill(context, models[index].contributions_grid, (at) => colourOf(shares[at]), box ?? WHOLE);
    }
    if (mask) outline(context, mask, MASK_LINE, line);
    if (box) frame(context, box, line);
  }
  if (outlined && image.object) {
    const { grid, bits } = image.object;
    outline(context, { grid, cells: decodeBits(bits, grid) }, OBJECT_LINE, line);
  }
}

const colourOf = (share) => (share === 0 ? null : `rgba(${share > 0 ? ADDS : TAKES}, ${(0.9 * Math.abs(share)).toFixed(3)})`);

/** Fill the cells of a part of the image that have a colour; borders are rounded to pixels, so that no seams show. */
function fill(context, [rows, columns], colourAt, [x0, y0, x1, y1] = WHOLE) {
  const { width, height } = context.canvas;
  for (let at = 0; at < rows * columns; at++) {
    const colour = colourAt(at);
    if (colour === null) continue;
    const row = Math.floor(at / columns);
    const column = at % columns;
    const x = (side) => Math.round(width * (x0 + ((x1 - x0) * side) / columns));
    const y = (side) => Math.round(height * (y0 + ((y1 - y0) * side) / rows));
    context.fillStyle = colour;
    context.fillRect(x(column), y(row), x(column + 1) - x(column), y(row + 1) - y(row));
  }
}

/** The frame of a box, dashed, within the canvas. */
function frame(context, [x0, y0, x1, y1], line) {
  const { width, height } = context.canvas;
  Object.assign(context, { strokeStyle: OBJECT_LINE, lineWidth: line });
  context.setLineDash([4 * line, 3 * line]);
  context.strokeRect(x0 * width + line / 2, y0 * height + line / 2, (x1 - x0) * width - line, (y1 - y0) * height - line);
  context.setLineDash([]);
}

/** The border between open and closed cells, the frame left out; dark beneath, so that it shows on any image. */
function outline(context, { grid: [rows, columns], cells }, colour, line) {
  const { width, height } = context.canvas;
  const [x, y] = [(column) => (column * width) / columns, (row) => (row * height) / rows];
  const path = new Path2D();
  const edge = (fromColumn, fromRow, toColumn, toRow) => {
    path.moveTo(x(fromColumn), y(fromRow));
    path.lineTo(x(toColumn), y(toRow));
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      if (column > 0 && cells[at] !== cells[at - 1]) edge(column, row, column, row + 1);
      if (row > 0 && cells[at] !== cells[at - columns]) edge(column, row, column + 1, row);
    }
  }
  context.lineCap = "square";
  for (const [stroke, thickness] of [["rgba(0, 0, 0, 0.65)", 2 * line], [colour, line]]) {
    context.strokeStyle = stroke;
    context.lineWidth = thickness;
    context.stroke(path);
  }
}
