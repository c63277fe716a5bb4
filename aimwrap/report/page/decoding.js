// Masks and contributions from their base64, when they are drawn and not before.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** A mask as one 0 or 1 per cell, row by row; the most significant bit of a byte comes first. */
function decodeBits(base64, [rows, columns]) {
  const bytes = bytesOf(base64);
  return Uint8Array.from({ length: rows * columns }, (_, at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1);
}

/** Contributions as shares of the strongest one, from -1 to 1, row by row. */
function decodeContributions({ scale, values }) {
  return Float32Array.from(new Int8Array(bytesOf(values).buffer), (level) => (scale === 0 ? 0 : level / 127));
}
