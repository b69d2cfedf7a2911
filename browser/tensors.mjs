/** Bytes of a safetensors file in; its tensors, as typed arrays, out. */

const KINDS = { U8: Uint8Array, U16: Uint16Array, F32: Float32Array };

/** All 65,536 half-precision numbers. */
const HALVES = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
  return (bits >> 15 ? -1 : 1) * (exponent === 31 ? (fraction ? NaN : Infinity) : size);
});

/**
 * @param {ArrayBuffer} bytes A file as https://github.com/huggingface/safetensors writes it.
 * @returns {Object<string, {shape: number[], data: Float32Array | Uint8Array | Uint16Array}>}
 */
export function readTensors(bytes) {
  const length = Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: ends }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const part = bytes.slice(8 + length + ends[0], 8 + length + ends[1]);
    const data = dtype === "F16" ? halves(new Uint16Array(part)) : new KINDS[dtype](part);
    tensors[name] = { shape, data };
  }
  return tensors;
}

const halves = (bits) => Float32Array.from(bits, (b) => HALVES[b]);
