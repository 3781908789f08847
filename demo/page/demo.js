// The page: takes a picture, asks the network, shows what it says.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { mirrored, probabilities, resizedPlanes, toCanvas } from "./pixels.js";

const LARGEST_SIDE = 2048; // pixels; larger pictures are made smaller first, so that a phone has the memory

const element = (id) => document.getElementById(id);
const status = element("status");
const bars = element("bars");

ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a static page cannot set

let about; // labels, image size, resize mode and name, as build.py wrote them
let session;
let shown; // planes of the picture at hand
let work = Promise.resolve(); // one picture after another: the network answers one question at a time

function say(text, isError = false) {
  status.textContent = text;
  status.className = isError ? "error" : "";
}

async function start() {
  try {
    about = await (await fetch("about.json")).json();
    session = await ort.InferenceSession.create("model.onnx");
  } catch (error) {
    say(`The network could not be loaded: ${error.message}. Reload the page to try again.`, true);
    return;
  }
  document.querySelector("h1").textContent = about.name;
  element("size").textContent = `${about.image_size}×${about.image_size}`;
  element("seen").width = element("seen").height = about.image_size;
  for (const sample of about.samples) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    Object.assign(image, { src: sample.file, alt: sample.label });
    button.append(image);
    button.addEventListener("click", () => takeSample(sample));
    element("samples").append(button);
  }
  element("file").disabled = false;
  say("Ready.");
}

async function takeSample(sample) {
  take(await (await fetch(sample.file)).blob(), `Test image: ${sample.label}`);
}

function take(blob, name) {
  if (session) {
    work = work.then(async () => {
      if (await look(blob, name)) await answer();
    });
  }
}

// Whether the picture could be read, and now is the one at hand.
async function look(blob, name) {
  let picture;
  try {
    picture = await createImageBitmap(blob);
  } catch {
    say(`${name} is no picture that this browser can read. Take a PNG, JPEG or WebP file.`, true);
    return false;
  }
  const shrink = Math.min(1, LARGEST_SIDE / Math.max(picture.width, picture.height));
  const width = Math.max(1, Math.round(picture.width * shrink));
  const height = Math.max(1, Math.round(picture.height * shrink));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  picture.close();
  const size = about.image_size;
  shown = resizedPlanes(context.getImageData(0, 0, width, height).data, width, height, size, about.resize_mode);
  element("seen").getContext("2d").putImageData(toCanvas(shown, size), 0, 0);
  say(name);
  return true;
}

async function answer() {
  if (!shown) return;
  const size = about.image_size;
  const views = element("flip").checked ? [shown, mirrored(shown, size)] : [shown];
  const pixels = new Uint8Array(views.length * shown.length);
  views.forEach((view, number) => pixels.set(view, number * shown.length));
  const input = new ort.Tensor("uint8", pixels, [views.length, 3, size, size]);
  const started = performance.now();
  const { logits } = await session.run({ pixel_values: input });
  const milliseconds = performance.now() - started;
  show(probabilities(logits.data, about.labels.length));
  element("time").textContent = `${milliseconds.toFixed(1)} ms`;
}

function show(shares) {
  const order = shares.map((_, label) => label).sort((one, other) => shares[other] - shares[one]);
  bars.replaceChildren(
    ...order.map((label) => {
      const row = document.createElement("li");
      const name = Object.assign(document.createElement("span"), { textContent: about.labels[label] });
      const bar = Object.assign(document.createElement("meter"), { value: shares[label] });
      const share = Object.assign(document.createElement("span"), { className: "share" });
      share.textContent = `${(100 * shares[label]).toFixed(1)} %`;
      row.dataset.probability = shares[label];
      row.append(name, bar, share);
      return row;
    }),
  );
}

const drop = element("drop");
for (const event of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(event, (occurred) => {
    occurred.preventDefault(); // the browser would open the picture in place of the page
    drop.classList.toggle("over", event === "dragover");
  });
}
document.addEventListener("drop", (occurred) => {
  const [file] = occurred.dataTransfer.files;
  if (file) take(file, file.name);
});
element("file").addEventListener("change", (occurred) => {
  const [file] = occurred.target.files;
  if (file) take(file, file.name);
});
element("flip").addEventListener("change", () => {
  work = work.then(answer);
});

await start();
