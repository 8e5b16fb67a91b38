/* The network and all work on pixels, beside the page, so that the page never waits.

   Tasks come as {id, task, …} and are done one by one; answers go as {id, result}, {id, refusal} with a sentence, or
   {loaded} with the bytes of the network that have come. The slice that was opened last is kept here. */

import {isColoured, blend, contourShape, fillShape, heatMap, toDisplay} from './layers.js';
import {measure, overlap} from './lesions.js';
import {encodePng} from './scripts/packing.js';
import {readPicture, roundToEven, UnusableError} from './reading.js';
import {env, InferenceSession, Tensor} from './runtime/ort.wasm.bundle.min.mjs';
import {toTable} from './table.js';

const MAX_THREADS = 4;
const MAX_16_BIT = 65535;

let settings, session, slice;

const tasks = {
    /* Gets the network: {threads}. */
    async start({given}) {
        settings = given;
        const [wasm, model] = await fetchAll([settings.runtime, settings.model_file]);
        // Threads share memory, which browsers allow to pages alone that no other page can look into.
        env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
        env.wasm.wasmBinary = wasm;
        session = await InferenceSession.create(new Uint8Array(model), {executionProviders: ['wasm']});
        return {threads: env.wasm.numThreads};
    },

    /* Reads and segments a picture, bytes of a file; truth: those of the mask drawn by hand, if there is one. */
    async open({bytes, name, title, truth}) {
        const picture = await readPicture(new Uint8Array(bytes), title, settings.limits);
        const {width, height} = picture, start = performance.now();
        const {probability, familiarity} = await segment(picture);
        const seconds = (performance.now() - start) / 1000, display = toDisplay(picture);
        const shapeOfTruth = truth && await readMask(truth);
        slice = {name, width, height, probability, familiarity, display, truth: shapeOfTruth};
        return {
            title, width, height, familiarity, seconds, warnings: warnings(slice),
            anatomy: await encodePng(display),
            heatmap: await encodePng(heatMap(probability, width, height, settings.colormap)),
            truth: slice.truth && await encodePng(contourShape(slice.truth, width, height)),
        };
    },

    /* Nothing of the slice is left. */
    async forget() {
        slice = null;
    },

    /* Cuts the probabilities of the open slice: its measurements and the shapes to show. */
    async measure({cut}) {
        const {width, height, truth} = slice, {mask, ...measured} = measure(slice, cut, settings.min_area_px);
        return {
            ...measured,
            agreement: truth ? overlap(mask, truth) : null,
            fill: await encodePng(fillShape(mask, width, height)),
            contour: await encodePng(contourShape(mask, width, height)),
        };
    },

    /* A file to take away: {name, blob}. */
    async save({kind, cut, look}) {
        const {width, height, probability, display} = slice, {mask, ...measured} = measure(slice, cut, settings.min_area_px);
        const grey = data => encodePng({width, height, channels: 1, data});
        const makers = {
            mask: () => grey(mask.map(inside => 255 * inside)),
            probability: () => grey(Uint16Array.from(probability, value => roundToEven(Math.fround(value * MAX_16_BIT)))),
            overlay: () => encodePng(blend(display, layerOf(look.style, mask), look.style === 'heatmap' ? null : look.color, look.opacity)),
            table: () => new Blob([toTable(slice.name, measured)], {type: 'text/csv'}),
        };
        return {name: `${slice.name}_${kind}.${kind === 'table' ? 'csv' : 'png'}`, blob: await makers[kind]()};
    },
};

async function segment({width, height, channels, data}) {
    const pixels = new Tensor('float32', new Float32Array(data), [height, width, channels]);
    const outputs = await session.run({pixels});
    const found = {probability: outputs.probability.data.slice(), familiarity: outputs.familiarity?.data[0] ?? null};
    for (const tensor of [pixels, ...Object.values(outputs)]) tensor.dispose();
    return found;
}

async function readMask(bytes) {
    const {data, channels} = await readPicture(new Uint8Array(bytes), 'mask', settings.limits);
    return Uint8Array.from({length: data.length / channels}, (_, pixel) => data[channels * pixel] ? 1 : 0);
}

/* What a reader should know before trusting the mask, one sentence each. */
function warnings({width, height, familiarity, display}) {
    const sentences = [];
    if (familiarity !== null && familiarity < settings.unfamiliar) sentences.push(settings.sentences.unlike);
    if (isColoured(display, [0, 0, width, height])) sentences.push(settings.sentences.coloured);
    return sentences;
}

function layerOf(style, mask) {
    const {width, height, probability} = slice;
    if (style === 'heatmap') return heatMap(probability, width, height, settings.colormap);
    return (style === 'contour' ? contourShape : fillShape)(mask, width, height);
}

/* The content of files, ArrayBuffers, in their order; what has come of them is told. */
async function fetchAll(names) {
    let loaded = 0;
    return Promise.all(names.map(async name => {
        const response = await fetch(name);
        if (!response.ok) throw new UnusableError(`${name} is missing on the server of this page (${response.status}).`);
        const counted = new TransformStream({
            transform(piece, controller) {
                loaded += piece.length;
                postMessage({loaded});
                controller.enqueue(piece);
            },
        });
        return new Response(response.body.pipeThrough(counted)).arrayBuffer();
    }));
}

let last = Promise.resolve();
self.addEventListener('message', ({data: {id, task, ...given}}) => {
    last = last.then(() => tasks[task](given)).then(
        result => postMessage({id, result}),
        error => postMessage({id, refusal: error instanceof UnusableError ? error.message : `This browser failed: ${error.message ?? error}`}),
    );
});
