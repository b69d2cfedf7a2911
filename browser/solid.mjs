/**
 * A crystal and a point of view in, a drawing of its cell, atoms and bonds on a canvas out.
 *
 * Parallel projection; what is nearer is drawn later, and what is farther is paler.
 */

import { dot, latticeOf } from "./crystal.mjs";

const EDGE = 1e-3; // of a cell: an atom so near to a face is drawn on the opposite one too
const BOND = 1.1; // times the sum of the covalent radii
const LONGEST = 3.4; // angstrom
const SIZE = 0.45; // of the covalent radius, for an atom among bonds
const STICK = 0.1; // angstrom
const WIDE = 1.15; // where there is room at the sides, a crystal may be that much larger
const FAR = 0.62; // how much of its colour the farthest thing loses to the background

/** Place in angstrom of fractions of the cell. */
export const placeOf = (lattice, [x, y, z]) => [0, 1, 2].map((i) => x * lattice[0][i] + y * lattice[1][i] + z * lattice[2][i]);

/** Atoms in a block of cells, those on its faces at both ends; places in angstrom. */
export function atomsIn({ atoms }, lattice, repeat) {
  const found = [];
  for (const [z, ...frac] of atoms) {
    const base = frac.map((x) => (1 - x < EDGE ? 0 : x));
    for (let i = 0; i <= repeat; i++) {
      for (let j = 0; j <= repeat; j++) {
        for (let k = 0; k <= repeat; k++) {
          const at = [base[0] + i, base[1] + j, base[2] + k];
          if (at.every((x) => x <= repeat + EDGE)) found.push({ z, at: placeOf(lattice, at) });
        }
      }
    }
  }
  return found;
}

/** Pairs of atoms that touch: with the most electronegative element of the crystal, or of one element. */
export function bondsOf(atoms, elements) {
  const kinds = [...new Set(atoms.map(({ z }) => z))];
  const anion = kinds.reduce((best, z) => (elements[z].electronegativity > elements[best].electronegativity ? z : best), kinds[0]);
  const pairs = [];
  atoms.forEach((one, i) => {
    for (let k = i + 1; k < atoms.length; k++) {
      const other = atoms[k];
      if (one.z !== anion && other.z !== anion) continue;
      const d = Math.hypot(...one.at.map((x, axis) => x - other.at[axis]));
      const most = Math.min(BOND * (elements[one.z].radius + elements[other.z].radius), LONGEST);
      if (d > 0.5 && d < most) pairs.push([i, k]);
    }
  });
  return pairs;
}

/** Corners and edges of a block of cells. */
function boxes(lattice, repeat) {
  const lines = [];
  for (let axis = 0; axis < 3; axis++) {
    const [u, v] = [0, 1, 2].filter((other) => other !== axis);
    for (let i = 0; i <= repeat; i++) {
      for (let k = 0; k <= repeat; k++) {
        for (let along = 0; along < repeat; along++) {
          const from = [0, 0, 0];
          [from[u], from[v], from[axis]] = [i, k, along];
          const to = [...from];
          to[axis] += 1;
          lines.push({ ends: [placeOf(lattice, from), placeOf(lattice, to)], axis: i || k || along ? -1 : axis });
        }
      }
    }
  }
  return lines;
}

/** A rotation: turned about the vertical, then tilted towards the viewer, in radians; c points up. */
export function viewFrom(turn, tilt) {
  const [s, c, u, v] = [Math.sin(turn), Math.cos(turn), Math.sin(tilt), Math.cos(tilt)];
  return [[-s, c, 0], [-u * c, -u * s, v], [v * c, v * s, u]]; // right, up, towards the viewer
}

/** Red, green and blue of #rrggbb, 0 to 255. */
export function rgb(color) {
  const number = parseInt(color.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

const mixed = (color, other, share) => color.map((x, i) => Math.round(x + (other[i] - x) * share));
const css = (color) => `rgb(${color.join(",")})`;

/**
 * All that a crystal's drawing is made of, independent of the point of view. In another cell than
 * its own the crystal keeps its bonds.
 */
export function sceneOf(crystal, elements, { repeat = 1, bonds = true } = {}, cell = crystal.cell) {
  const lattice = latticeOf(cell);
  if (!lattice) return null;
  const atoms = atomsIn(crystal, lattice, repeat);
  const centre = placeOf(lattice, [repeat / 2, repeat / 2, repeat / 2]);
  const edges = boxes(lattice, repeat);
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => placeOf(lattice, [i & 1, (i >> 1) & 1, i >> 2].map((x) => x * repeat)));
  const radius = Math.max(...corners.map((p) => Math.hypot(...p.map((x, i) => x - centre[i]))));
  return { atoms, edges, centre, radius, elements, bonds: bonds ? bondsOf(atomsIn(crystal, latticeOf(crystal.cell), repeat), elements) : [], bonded: bonds };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {NonNullable<ReturnType<typeof sceneOf>>} scene
 * @param {{turn: number, tilt: number, zoom: number, radius?: number}} view A radius keeps the scale
 *   while a cell changes.
 * @param {{ink: string, paper: number[], edge: string}} colours Of text, background and edges.
 */
export function draw(canvas, scene, { turn, tilt, zoom, radius = scene.radius }, { ink, paper, edge }) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const view = viewFrom(turn, tilt);
  const scale = ((Math.min(width, WIDE * height) / 2 - 32) / radius) * zoom;
  const seen = (p) => {
    const moved = p.map((x, i) => x - scene.centre[i]);
    const [x, y, depth] = view.map((axis) => dot(axis, moved));
    return [width / 2 + scale * x, height / 2 - scale * y, depth];
  };
  const fade = (depth) => FAR * (0.5 - Math.max(-1, Math.min(1, depth / radius)) / 2);
  const things = [];
  for (const { ends, axis } of scene.edges) things.push(edgeOf(ends.map(seen), axis, edge));
  const points = scene.atoms.map(({ at }) => seen(at));
  const sizeOf = (z) => scene.elements[z].radius * (scene.bonded ? SIZE : 2 * SIZE);
  for (const [i, k] of scene.bonds) {
    const [colour, other] = [scene.atoms[i], scene.atoms[k]].map(({ z }) => rgb(scene.elements[z].color));
    const ends = [[i, k], [k, i]].map(([one, two]) => surface(points[one], points[two], sizeOf(scene.atoms[one].z), scale));
    things.push(...halves(...ends, colour, other, Math.max(STICK * scale * 2, 2), paper, fade));
  }
  scene.atoms.forEach(({ z }, i) => things.push(ball(points[i], sizeOf(z) * scale, rgb(scene.elements[z].color), paper, fade)));
  for (const { paint } of things.sort((u, v) => u.depth - v.depth)) paint(pen);
  letters(pen, scene, seen, ink);
}

function edgeOf([p, q], axis, colour) {
  const paint = (pen) => {
    pen.strokeStyle = colour;
    pen.lineWidth = axis < 0 ? 1 : 2;
    pen.beginPath();
    pen.moveTo(p[0], p[1]);
    pen.lineTo(q[0], q[1]);
    pen.stroke();
  };
  return { depth: Math.min(p[2], q[2]), paint };
}

/** Where a bond leaves the ball of an atom: x and y in pixels, depth in angstrom. */
function surface(p, q, size, scale) {
  const [x, y, depth] = [(q[0] - p[0]) / scale, (q[1] - p[1]) / scale, q[2] - p[2]];
  const share = Math.min((0.95 * size) / Math.hypot(x, y, depth), 0.5);
  return p.map((from, i) => from + share * (q[i] - from));
}

/** A bond in the colours of its atoms. */
function halves(p, q, colour, other, thick, paper, fade) {
  const middle = p.map((x, i) => (x + q[i]) / 2);
  return [[p, colour], [q, other]].map(([end, shade]) => ({
    depth: (end[2] + middle[2]) / 2,
    paint: (pen) => {
      pen.strokeStyle = css(mixed(mixed(shade, [0, 0, 0], 0.15), paper, fade((end[2] + middle[2]) / 2)));
      pen.lineWidth = thick;
      pen.lineCap = "butt";
      pen.beginPath();
      pen.moveTo(end[0], end[1]);
      pen.lineTo(middle[0], middle[1]);
      pen.stroke();
    },
  }));
}

function ball([x, y, depth], size, colour, paper, fade) {
  const paint = (pen) => {
    const own = mixed(colour, paper, fade(depth));
    const shine = pen.createRadialGradient(x - size * 0.35, y - size * 0.4, size * 0.1, x, y, size);
    shine.addColorStop(0, css(mixed(own, [255, 255, 255], 0.75)));
    shine.addColorStop(0.45, css(own));
    shine.addColorStop(1, css(mixed(own, [0, 0, 0], 0.35)));
    pen.fillStyle = shine;
    pen.beginPath();
    pen.arc(x, y, size, 0, 2 * Math.PI);
    pen.fill();
    pen.strokeStyle = css(mixed(own, [0, 0, 0], 0.55));
    pen.lineWidth = 0.8;
    pen.stroke();
  };
  return { depth, paint };
}

/** a, b, c at the ends of the first edges. */
function letters(pen, scene, seen, ink) {
  pen.fillStyle = ink;
  pen.font = "italic 600 15px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const { ends: [from, to], axis } of scene.edges) {
    if (axis < 0) continue;
    const [x, y] = seen(from.map((start, i) => start + (to[i] - start) * 0.5));
    const [cx, cy] = seen(scene.centre);
    const away = Math.hypot(x - cx, y - cy) || 1;
    pen.fillText("abc"[axis], x + (14 * (x - cx)) / away, y + (14 * (y - cy)) / away);
  }
}
