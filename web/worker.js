/* The network and all work on pixels, beside the page, so that the page never waits.

   Tasks come as {id, task, …} and are done one by one, but for {stop}, which ends the one that is being done; answers go as
   {id, result}, {id, refusal} with a sentence, {loaded} with how many more bytes of the network have come, or {done, total}
   slices. The slice or the volume that was opened last is kept here. */

import {boxOf, cutOut, findFrames, paste} from './framing.js';
import {isColoured, blend, contourShape, fillShape, heatMap, toDisplay} from './layers.js';
import {measure, overlap} from './lesions.js';
import {encodePng} from './scripts/packing.js';
import {greyOf, roundToEven} from './raster.js';
import {readPicture, UnusableError} from './reading.js';
import {env, InferenceSession, Tensor} from './runtime/ort.wasm.bundle.min.mjs';
import {toTable} from './table.js';
import {isDicom} from './volumes/dicom.js';
import {isNifti} from './volumes/nifti.js';
import {Study} from './volumes/study.js';

const MAX_THREADS = 4;
const MAX_16_BIT = 65535;

let settings, session, slice, study = null, isStopped = false;

const tasks = {
    /* Gets the network: {threads}. */
    async start({given}) {
        settings = given;
        const model = await fetchFile(settings.model), runtime = await fetchFile(settings.runtime);
        // Threads share memory, which browsers allow to pages alone that no other page can look into.
        env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
        env.wasm.wasmBinary = runtime.buffer;
        session = await InferenceSession.create(model, {executionProviders: ['wasm']});
        env.wasm.wasmBinary = undefined; // it has a copy of its own
        return {threads: env.wasm.numThreads};
    },

    /* Reads and segments a picture or a volume, bytes of a file, and of the others of a DICOM series; truth: those of the mask
       drawn by hand, if there is one. */
    async open({bytes, others = [], name, title, truth}) {
        isStopped = false;
        const content = new Uint8Array(bytes), start = performance.now(), took = () => (performance.now() - start) / 1000;
        if (isDicom(content) || await isNifti(content)) {
            const files = [content, ...others.map(other => new Uint8Array(other))];
            const opened = await Study.open(files, {name, title, look: lookAt, told: tell, settings});
            [study, slice] = [opened, null];
            return {title, seconds: took(), volume: study.describe()};
        }
        const picture = await readPicture(content, title, settings.limits);
        const {width, height, fullSize} = picture;
        const {probability, familiarity, frames, inverted} = await segment(picture);
        const seconds = took();
        const shapeOfTruth = truth && await readMask(truth);
        slice = {
            name, width, height, probability, familiarity, frames, inverted, fullSize, display: toDisplay(picture), truth: shapeOfTruth,
        };
        study = null;
        return {title, familiarity, frames, inverted, seconds, warnings: warnings(slice), ...await drawn()};
    },

    /* Of a volume, another slice; without an index, the one to begin with: {index, …} as of a picture. */
    async turn({index, cut}) {
        const number = index ?? study.firstShown(cut);
        slice = {...study.sliceAt(number), index: number};
        return {index: number, ...await drawn()};
    },

    /* Nothing of the slice is left. */
    async forget() {
        slice = study = null;
    },

    /* Masks that were corrected by hand, of the open slice or of slices of the volume; without runs, the network's own again:
       slices are {index, runs}, the lengths of runs of 0 and 1 in turn. */
    async correct({slices}) {
        const masks = slices.map(({index, runs}) => [index, runs && maskOfRuns(runs)]);
        if (!study) return void (slice.byHand = masks.at(-1)[1]);
        study.correct(masks);
        const [, shown] = masks.find(([index]) => index === slice.index) ?? [];
        if (shown !== undefined) slice.byHand = shown;
    },

    /* Cuts the probabilities of the open slice: its measurements and the shapes to show. */
    async measure({cut}) {
        const {width, height, truth} = slice, {mask, ...measured} = measureAt(slice, cut);
        return {
            ...measured, corrected: corrected(), byHand: Boolean(slice.byHand),
            whole: study && study.once('measure', cut),
            agreement: truth ? overlap(mask, truth) : null,
            fill: await encodePng(fillShape(mask, width, height)),
            contour: await encodePng(contourShape(mask, width, height)),
        };
    },

    /* Of a volume what the viewer draws: files of the mask and, if it is asked for, of the scan. */
    async view({cut, withScan}) {
        return study.view(cut, withScan);
    },

    /* A file to take away: {name, blob}. */
    async save({kind, cut, look}) {
        const marked = corrected() ? 'corrected_' : '';
        if (kind === 'volume') return {name: `${study.name}_${marked}mask.nii.gz`, blob: await study.save(cut)};
        const {width, height, probability, display} = slice, {mask, ...measured} = measureAt(slice, cut);
        const grey = data => encodePng({width, height, channels: 1, data});
        const makers = {
            mask: () => grey(mask.map(inside => 255 * inside)),
            probability: () => grey(Uint16Array.from(probability, value => roundToEven(Math.fround(value * MAX_16_BIT)))),
            overlay: () => encodePng(blend(display, layerOf(look.style, mask), look.style === 'heatmap' ? null : look.color, look.opacity)),
            table: () => new Blob([toTable(slice.name, measured)], {type: 'text/csv'}),
        };
        const mark = slice.byHand ? 'corrected_' : '';
        return {name: `${slice.name}_${mark}${kind}.${kind === 'table' ? 'csv' : 'png'}`, blob: await makers[kind]()};
    },
};

/* What the network says of a picture, within the frames of its heads if it has any, as segmenter.py puts it together:
   {probability, familiarity, frames, inverted}; frames are boxes [x, y, width, height]. */
async function segment(picture) {
    const {width, height} = picture, grey = greyOf(picture), frames = findFrames(picture, settings.framing);
    if (!frames.length) return {...await lookAt(grey), frames, inverted: false};
    const probability = new Float32Array(width * height), familiarities = [];
    for (const frame of frames) {
        const found = await lookAt(cutOut(frame, grey));
        paste(frame, found.probability, probability, width, height);
        familiarities.push(found.familiarity);
    }
    return {
        probability, familiarity: familiarities.includes(null) ? null : Math.min(...familiarities),
        frames: frames.map(frame => boxOf(frame, width, height)), inverted: frames.some(frame => frame.inverted),
    };
}

/* How many slices of what is open were corrected by hand. */
const corrected = () => study ? study.byHand.size : Number(Boolean(slice.byHand));

function maskOfRuns(runs) {
    const mask = new Uint8Array(runs.reduce((sum, length) => sum + length, 0));
    let at = 0;
    runs.forEach((length, turn) => mask.fill(turn % 2, at, at += length));
    return mask;
}

/* The open slice as pictures. */
async function drawn() {
    const {name, width, height, display, probability, truth} = slice;
    return {
        name, width, height, anatomy: await encodePng(display),
        heatmap: await encodePng(heatMap(probability, width, height, settings.colormap)),
        truth: truth && await encodePng(contourShape(truth, width, height)),
    };
}

/* How far a volume is; between two of its slices, what came meanwhile is heard. */
async function tell(done, total) {
    postMessage({done, total});
    await new Promise(heard => setTimeout(heard));
    if (isStopped) throw new UnusableError('The volume was stopped before its last slice.');
}

async function lookAt({width, height, data}) {
    const pixels = new Tensor('float32', data, [height, width, 1]), outputs = await session.run({pixels});
    const found = {probability: outputs.probability.data, familiarity: outputs.familiarity?.data[0] ?? null};
    for (const tensor of [pixels, ...Object.values(outputs)]) tensor.dispose();
    return found;
}

/* As `measure`, of what may have been scaled down, or whose file says how large a pixel is; a spacing of 0 is unknown. */
function measureAt(slice, {spacing, ...cut}) {
    const {width, height, fullSize} = slice, [fullWidth, fullHeight] = fullSize ?? [width, height];
    const sides = slice.spacing ?? (spacing ? [spacing * fullHeight / height, spacing * fullWidth / width] : null);
    return measure(slice, {...cut, spacing: sides}, settings.min_area_px);
}

async function readMask(bytes) {
    const {data, channels} = await readPicture(new Uint8Array(bytes), 'mask', settings.limits);
    return Uint8Array.from({length: data.length / channels}, (_, pixel) => data[channels * pixel] ? 1 : 0);
}

/* What a reader should know before trusting the mask, one sentence each. */
function warnings({width, height, familiarity, frames, inverted, fullSize, display}) {
    const parts = frames.length ? frames : [[0, 0, width, height]], [[x, y, w, h]] = parts;
    const isCut = x > 0 || y > 0 || w < width || h < height;
    return Object.entries({
        unlike: familiarity !== null && familiarity < settings.unfamiliar,
        several_cut_out: parts.length > 1 && {count: parts.length},
        cut_out: parts.length === 1 && isCut,
        inverted,
        coloured: parts.some(part => isColoured(display, part)),
        scaled_down: fullSize && {full: fullSize.join(' × '), size: `${width} × ${height}`},
    }).flatMap(([name, isSo]) => isSo ? [sentence(name, isSo)] : []);
}

/* A sentence of settings.json; values: what stands in its braces. */
const sentence = (name, values) => settings.sentences[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

function layerOf(style, mask) {
    const {width, height, probability} = slice;
    if (style === 'heatmap') return heatMap(probability, width, height, settings.colormap);
    return (style === 'contour' ? contourShape : fillShape)(mask, width, height);
}

/* The bytes of a file of the page, {name, bytes}; what has come of it is told.

   They come into the place where they stay: pieces that are put together would take as much memory again. */
async function fetchFile({name, bytes}) {
    const response = await fetch(name);
    if (!response.ok) throw new UnusableError(`${name} is missing on the server of this page (${response.status}).`);
    const [reader, isDirect] = readerOf(response.body);
    let content = new Uint8Array(bytes), at = 0;
    while (at < bytes) {
        const {done, value} = await reader.read(...isDirect ? [content.subarray(at)] : []);
        if (done || at + value.length > bytes)
            throw new UnusableError(`${name} is not the file that this page needs; load the page anew.`);
        if (isDirect) content = new Uint8Array(value.buffer);
        else content.set(value, at);
        at += value.length;
        postMessage({loaded: value.length});
    }
    return content;
}

/* What reads a stream, and whether it does so into a place that it is given, which not all browsers can. */
function readerOf(stream) {
    try {
        return [stream.getReader({mode: 'byob'}), true];
    } catch {
        return [stream.getReader(), false];
    }
}

let last = Promise.resolve();
self.addEventListener('message', ({data: {id, task, stop, ...given}}) => {
    if (stop) {
        isStopped = true;
        return;
    }
    last = last.then(() => tasks[task](given)).then(
        result => postMessage({id, result}),
        error => postMessage({id, refusal: error instanceof UnusableError ? error.message : `This browser failed: ${error.message ?? error}`}),
    );
});
