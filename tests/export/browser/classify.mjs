// node classify.mjs FOLDER IMAGE GRAPH: logits of a published folder by both libraries, as JSON.
import { readFileSync } from "node:fs";
import { AutoImageProcessor, AutoModel, RawImage, env } from "@huggingface/transformers";
import * as ort from "onnxruntime-web";

const [folder, file, graph] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = "";
const image = await RawImage.read(file);

const processor = await AutoImageProcessor.from_pretrained(folder);
const model = await AutoModel.from_pretrained(folder);
const { logits } = await model(await processor(image));

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(`${folder}/onnx/${graph}`));
const shape = [1, 3, image.height, image.width];
const pixels = new ort.Tensor("uint8", image.toTensor("CHW").data, shape);
const web = await session.run({ pixel_values: pixels });

const best = logits.data.indexOf(Math.max(...logits.data));
const label = model.config.id2label[best];
console.log(JSON.stringify({ transformers: [...logits.data], web: [...web.logits.data], label }));
