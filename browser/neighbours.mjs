/** A point of the shared space and many others in, the nearest of them out. */

/** Cosine of a unit vector with each of many, one after the other. */
function cosinesOf(query, points, width) {
  return Float64Array.from({ length: points.length / width }, (_, row) => {
    let cosine = 0;
    for (let i = 0; i < width; i++) cosine += query[i] * points[row * width + i];
    return cosine;
  });
}

/**
 * @param {ArrayLike<number>} query Unit vector.
 * @param {ArrayLike<number>} points Unit vectors, one after the other.
 * @param {number} width Numbers of a point.
 * @param {number} most How many are wanted.
 * @returns {{row: number, cosine: number}[]} The nearest first.
 */
export function nearest(query, points, width, most) {
  const all = Array.from(cosinesOf(query, points, width), (cosine, row) => ({ row, cosine }));
  return all.sort((u, v) => v.cosine - u.cosine).slice(0, most);
}

/** Rank, from 1 on, of a row among all points; ties count against it. */
export function rankOf(query, points, width, row) {
  const cosines = cosinesOf(query, points, width);
  return cosines.filter((cosine) => cosine >= cosines[row] - 1e-6).length;
}
