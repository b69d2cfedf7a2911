/** Cosines of a batch in; a softmax at a temperature, and CLIP's loss, out. */

/** Softmax of each row of cosines times an inverse temperature. */
export function softmax(cosines, scale) {
  return cosines.map((row) => {
    const most = Math.max(...row);
    const odds = row.map((x) => Math.exp((x - most) * scale));
    const total = odds.reduce((a, b) => a + b);
    return odds.map((x) => x / total);
  });
}

const transposed = (rows) => rows.map((_, i) => rows.map((row) => row[i]));

/** The mean of -ln of the shares of the right ones, in nats. */
function oneWay(cosines, scale) {
  const parts = cosines.map((row, i) => {
    const most = Math.max(...row);
    return scale * (most - row[i]) + Math.log(row.reduce((sum, x) => sum + Math.exp((x - most) * scale), 0));
  });
  return parts.reduce((a, b) => a + b) / parts.length;
}

/** Symmetric loss of unimat_lib.alignment.clip_loss. */
export const lossOf = (cosines, scale) => (oneWay(cosines, scale) + oneWay(transposed(cosines), scale)) / 2;
