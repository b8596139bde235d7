// node wasm.mjs GRAPH PIXELS BATCH LOGITS: onnxruntime-web in wasm on raw floats [N, 3, 32, 32].
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [graph, values, batch, output] = process.argv.slice(2);
const shape = [Number(batch), 3, 32, 32];
const size = shape.reduce((a, b) => a * b);
const bytes = readFileSync(values);
const floats = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(graph));
const logits = [];
for (let start = 0; start < floats.length; start += size) {
  const x = new ort.Tensor("float32", floats.slice(start, start + size), shape);
  const found = await session.run({ pixel_values: x });
  logits.push(...found.logits.data);
}
writeFileSync(output, new Uint8Array(Float32Array.from(logits).buffer));
