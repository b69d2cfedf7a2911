/** A point of the shared space and many others in, the nearest of them out. */

/**
 * @param {ArrayLike<number>} query Unit vector.
 * @param {ArrayLike<number>} points Unit vectors, one after the other.
 * @param {number} width Numbers of a point.
 * @param {number} most How many are wanted.
 * @returns {{row: number, cosine: number}[]} The nearest first.
 */
export function nearest(query, points, width, most) {
  const all = [];
  for (let row = 0; row * width < points.length; row++) {
    let cosine = 0;
    for (let i = 0; i < width; i++) cosine += query[i] * points[row * width + i];
    all.push({ row, cosine });
  }
  return all.sort((u, v) => v.cosine - u.cosine).slice(0, most);
}

/** Rank, from 1 on, of a row among all points; ties count against it. */
export function rankOf(query, points, width, row) {
  const all = nearest(query, points, width, Infinity);
  const own = all.find((one) => one.row === row).cosine;
  return all.filter(({ cosine }) => cosine >= own - 1e-6).length;
}
