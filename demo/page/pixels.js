// From a picture of any size to the pixels that the network takes, as the image processor in Python makes them.

/**
 * Resizes as Pillow's BILINEAR does: a triangle as wide as a pixel of the smaller picture, along rows, then along
 * columns, rounded to whole numbers in between. Then takes the middle; what lies outside of the picture is black.
 *
 * @param {Uint8ClampedArray} source RGBA, as canvas has it
 * @param {number} width of the source
 * @param {number} height of the source
 * @param {number} size of the result, a square
 * @param {string} mode what is done to a picture that is not square: "squash", "crop" or "pad"
 * @returns {Uint8Array} planes of red, green and blue, 3 · size · size
 */
export function resizedPlanes(source, width, height, size, mode) {
  const [newWidth, newHeight] = newSize(width, height, size, mode);
  const columns = middle(weights(width, newWidth), size);
  const rows = middle(weights(height, newHeight), size);
  const planes = new Uint8Array(3 * size * size);
  const narrow = new Uint8ClampedArray(height * size);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < size; x++) {
        const { first, shares } = columns[x];
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * source[4 * (y * width + first + i) + channel];
        narrow[y * size + x] = sum;
      }
    }
    for (let y = 0; y < size; y++) {
      const { first, shares } = rows[y];
      for (let x = 0; x < size; x++) {
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * narrow[(first + i) * size + x];
        planes[(channel * size + y) * size + x] = Math.min(255, Math.max(0, Math.round(sum)));
      }
    }
  }
  return planes;
}

// Width and height that a picture is resized to, as transformers' get_size_with_aspect_ratio in Python gives them.
function newSize(width, height, size, mode) {
  if (mode === "squash") return [size, size];
  const short = Math.min(width, height);
  const long = Math.max(width, height);
  const exact = mode === "pad" ? (size * short) / long : size;
  const newShort = roundHalfToEven(exact);
  if (short === newShort) return [width, height];
  const newLong = Math.trunc((exact * long) / short);
  return width < height ? [newShort, newLong] : [newLong, newShort];
}

function roundHalfToEven(number) {
  const rounded = Math.round(number);
  return rounded - number === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// The middle of a list, as long as `size`; beyond its ends there is nothing, which counts for nothing.
function middle(list, size) {
  const start = Math.floor((list.length - size) / 2);
  return Array.from({ length: size }, (_, place) => list[start + place] ?? { first: 0, shares: [] });
}

// Of each pixel of the result, the first pixel of the source that counts, and what it and those after it count.
function weights(from, to) {
  if (from === to) return Array.from({ length: to }, (_, first) => ({ first, shares: [1] }));
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, target) => {
    const centre = (target + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const raw = [];
    for (let i = first; i < last; i++) raw.push(Math.max(0, 1 - Math.abs((i + 0.5 - centre) / support)));
    const total = raw.reduce((sum, share) => sum + share, 0);
    return { first, shares: raw.map((share) => share / total) };
  });
}

/** The planes of the mirror image, left to right. */
export function mirrored(planes, size) {
  return planes.map((_, index) => planes[index - (index % size) + (size - 1 - (index % size))]);
}

/** RGBA for a canvas. */
export function toCanvas(planes, size) {
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = planes[channel * size * size + i];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** Probabilities of the mean of several rows of logits, `rows · numLabels` in all. */
export function probabilities(logits, numLabels) {
  const rows = logits.length / numLabels;
  const means = Array.from({ length: numLabels }, (_, label) => {
    let sum = 0;
    for (let row = 0; row < rows; row++) sum += logits[row * numLabels + label];
    return sum / rows;
  });
  const largest = Math.max(...means);
  const powers = means.map((mean) => Math.exp(mean - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}
