/* A volume → slices of all planes that its voxels allow → one probability, as segmenting.py of the package does it.

       volume ─ find the head, cut its slices ─→ look ─→ mean probability ─→ confirmed pieces

   rules: the constants of the package's volumes, in settings.json. */

import {distances} from '../layers.js';
import {cropped, median, maskOf, opened, outlines, percentile, planeOf, thinned} from '../raster.js';
import {piecesOf} from './lesions.js';
import {cut, extentOf, frameOf, pasted} from './planes.js';
import {eachIn, gridOf, planeAt, PLANES, turned, turnedSizes} from './volume.js';

/* {probability, planes, familiarity, hasSkull, filled}; probability: Float32Array of all slices.

   look: what the network says of a square plane, {probability, familiarity}. told: called with the number of slices done and
   of all, before each; it may throw. */
export async function segmentVolume(volume, look, told, rules) {
    const planes = planesOf(volume, rules);
    const empty = emptyBetween(volume.slices);
    const slices = fromBlack(empty.length ? filledUp(volume.slices, empty) : volume.slices, rules);
    const head = findHead(slices, rules), looks = planes.map(plane => lookOf(volume, slices, plane, head, empty, rules));
    const total = looks.reduce((sum, {numbers}) => sum + numbers.length, 0);
    const probability = new Float32Array(slices.data.length);
    const familiarities = [];
    let done = 0;
    for (const {plane, view, frame, numbers, withMostHead} of looks) {
        const place = turnedTo(gridOf(probability, slices.shape), volume, plane), [, height, width] = view.shape;
        for (const number of numbers) {
            await told(done++, total);
            const found = await look(cut(frame, planeAt(view, number)));
            const {data} = pasted(frame, planeOf(frame.side, frame.side, found.probability), {width, height});
            eachIn(place, number, (at, pixel) => { probability[at] += Math.fround(data[pixel] / looks.length); });
            if (withMostHead(number) && found.familiarity !== null) familiarities.push(found.familiarity);
        }
    }
    dropUnconfirmed(probability, slices.shape, rules);
    const size = slices.shape[1] * slices.shape[2];
    for (const number of empty) probability.fill(0, number * size, (number + 1) * size);
    return {
        probability, planes, familiarity: familiarities.length ? median(familiarities) : null,
        hasSkull: isWhole(volume, slices, planes, rules), filled: planes.some(plane => plane !== volume.plane) ? empty.length : 0,
    };
}

// -------------------------------------------------------------------------------------------------------------- planes

/* The planes whose slices are worth looking at: all three, or those alone that were taken. */
function planesOf({slices, plane, spacing, sliceSpacing}, {MAX_SLICE_SPACING_MM, MAX_FILLED, LEAST_THICKNESS}) {
    const shown = shownOf(slices);
    const isFine = Math.round(100 * Math.max(...spacing, sliceSpacing)) / 100 <= MAX_SLICE_SPACING_MM;
    const isComplete = shown.length > 0 && shown.every((number, index) => !index || number - shown[index - 1] <= MAX_FILLED + 1);
    const [across, ...along] = slices.shape.map((length, axis) => length * [sliceSpacing, ...spacing][axis]);
    const isThick = across >= LEAST_THICKNESS * Math.max(...along);
    return PLANES.includes(plane) && isFine && isThick && isComplete ? PLANES : [plane];
}

/* The numbers of the slices that show anything. */
function shownOf({data, shape: [count, height, width]}) {
    const size = height * width, shows = number => data.subarray(number * size, (number + 1) * size).some(value => value);
    return [...Array(count).keys()].filter(shows);
}

/* The numbers of those that show nothing, between others that do. */
function emptyBetween(slices) {
    const shown = shownOf(slices), first = shown[0] ?? 0, last = shown.at(-1) ?? 0;
    return [...Array(slices.shape[0]).keys()].filter(number => number > first && number < last && !shown.includes(number));
}

/* Slices whose lowest value is 0, as of everything that is added around them; without negative values they stay as they are,
   unless all of them are so high that nothing would count as the ground of a head. */
function fromBlack(slices, {FOREGROUND_FRACTION}) {
    const {data, shape: [, height, width]} = slices, size = width * height, shown = shownOf(slices);
    const images = shown.map(number => planeOf(width, height, data.subarray(number * size, (number + 1) * size)));
    const lowest = images.reduce((least, image) => image.data.reduce((low, value) => Math.min(low, value), least), Infinity);
    const some = images.map(image => thinned(image, 4).data), seen = new Float32Array(some.length * (some[0]?.length ?? 0));
    some.forEach((part, index) => seen.set(part, index * part.length));
    if (!images.length || (lowest >= 0 && lowest <= FOREGROUND_FRACTION * percentile(seen, 99))) return slices;
    return gridOf(data.map(value => Math.max(value - lowest, 0)), slices.shape);
}

/* A copy in which the empty slices lie evenly between their neighbours. */
function filledUp({data, shape}, empty) {
    const values = data.slice(), size = shape[1] * shape[2], missing = new Set(empty);
    for (const number of empty) {
        let after = number;
        while (missing.has(after)) after++;
        for (let at = 0; at < size; at++) {
            const before = values[(number - 1) * size + at]; // filled already
            const step = Math.fround(values[after * size + at] - before) / (after - number + 1);
            values[number * size + at] = before + Math.fround(step);
        }
    }
    return gridOf(values, shape);
}

const turnedTo = (grid, {plane: own}, plane) => own === plane ? grid : turned(grid, own, plane);

/* The slices of one plane: what is shown of them, which of them show a part of the head, and most of it. */
function lookOf(volume, slices, plane, head, empty, rules) {
    const view = turnedTo(slices, volume, plane);
    const own = turnedTo(head, volume, plane);
    const all = [volume.sliceSpacing, ...volume.spacing];
    const sizes = plane === volume.plane ? all : turnedSizes(all, volume.plane, plane);
    const untaken = new Set(plane === volume.plane ? empty : []);
    const [first, end] = extentOf(own, 0, view.shape[0]), numbers = [];
    for (let number = first; number < end; number++) if (!untaken.has(number)) numbers.push(number);
    const areas = Array.from({length: own.shape[0]}, (_, number) => planeAt(own, number).data.reduce((sum, value) => sum + value, 0));
    const scale = own.shape[0] / view.shape[0], most = Math.max(...areas);
    return {
        plane, view, numbers, frame: frameOf(own, view.shape, sizes, rules),
        withMostHead: number => areas[Math.floor(number * scale)] >= most / 2,
    };
}

// ----------------------------------------------------------------------------------------------------------------- heads

/* The largest bright piece of slices in a coarse copy, a grid of 0 and 1; all of it if it is even. */
export function findHead(slices, {WORKING_SIDE, LEVEL}) {
    const step = Math.ceil(Math.max(...slices.shape) / WORKING_SIDE);
    const across = slices.shape[0] > Math.floor(WORKING_SIDE / 4) ? step : 1;
    const steps = [across, step, step], shape = slices.shape.map((length, axis) => Math.ceil(length / steps[axis]));
    const coarse = {...slices, shape, strides: slices.strides.map((stride, axis) => stride * steps[axis])};
    const images = Array.from({length: shape[0]}, (_, number) => planeAt(coarse, number)), size = shape[1] * shape[2];
    const values = new Float32Array(shape[0] * size);
    images.forEach((image, number) => values.set(image.data, number * size));
    const low = values.reduce((least, value) => Math.min(least, value), Infinity);
    const level = Math.fround(low + LEVEL * (percentile(values, 99) - low));
    const mask = new Uint8Array(values.length);
    images.forEach((image, number) => mask.set(opened(maskOf(image, value => value > level), 3).data, number * size));
    const largest = piecesOf(mask, shape).reduce((most, piece) => piece.length > most.length ? piece : most, []);
    const head = new Uint8Array(values.length).fill(largest.length ? 0 : 1);
    for (const at of largest) head[at] = 1;
    return gridOf(head, shape);
}

/* Whether a head has its skull, as far as axial slices can be seen: bone around a brain. */
function isWhole(volume, slices, planes, rules) {
    if (!planes.includes('axial')) return true;
    const {LEVEL, BONE, STEP_MM, BONE_MM, BRAIN_MM, BELOW_TOP_MM, TOP_MM} = rules;
    const all = [volume.sliceSpacing, ...volume.spacing];
    const axial = turnedTo(slices, volume, 'axial');
    const sizes = volume.plane === 'axial' ? all : turnedSizes(all, volume.plane, 'axial');
    const limit = Math.fround(LEVEL * percentile(slices.data, 99)), mm = Math.min(sizes[1], sizes[2]);
    const depthOf = number => depths(planeAt(axial, number), limit).map(depth => depth * mm);
    let top = axial.shape[0] - 1;
    while (top >= 0 && !depthOf(top).some(depth => depth > TOP_MM)) top--;
    if (top < 0) return true; // no head that could be without
    const [last, first] = BELOW_TOP_MM.map(below => Math.max(top - Math.round(below / sizes[0]), 0));
    const rings = Array.from({length: Math.ceil(BONE_MM / STEP_MM)}, () => []), brain = [];
    for (let number = first; number <= last; number++) {
        const {data} = planeAt(axial, number), depth = depthOf(number);
        data.forEach((value, pixel) => {
            if (depth[pixel] > 0 && depth[pixel] <= BONE_MM) rings[Math.ceil(depth[pixel] / STEP_MM) - 1]?.push(value);
            else if (depth[pixel] > BONE_MM && depth[pixel] <= BRAIN_MM) brain.push(value);
        });
    }
    let brightest = -Infinity, lost = 0;
    for (const value of rings.filter(ring => ring.length).map(median)) {
        brightest = Math.max(brightest, value);
        lost = Math.max(lost, brightest - value);
    }
    return !brain.length || lost > BONE * median(brain);
}

/* How many pixels a pixel lies inside the outline of the head in its slice; 0 outside. */
function depths(image, limit) {
    const {width, height} = image, [largest] = outlines(maskOf(image, value => value > limit));
    if (!largest) return new Float32Array(width * height);
    const [x, y] = largest.box;
    return distances(cropped(largest.inside, -x, -y, width, height).data, width, height, 0);
}

// ----------------------------------------------------------------------------------------------------------------- pieces

/* Lowers pieces of the mask to the threshold where too little of them is sure. */
function dropUnconfirmed(probability, shape, {DEFAULT_THRESHOLD, CONFIRMED, CONFIRMED_SHARE}) {
    const mask = new Uint8Array(probability.length), limit = Math.fround(DEFAULT_THRESHOLD), sure = Math.fround(CONFIRMED);
    for (let at = 0; at < mask.length; at++) mask[at] = probability[at] > limit ? 1 : 0;
    for (const piece of piecesOf(mask, shape)) {
        if (piece.filter(at => probability[at] > sure).length >= CONFIRMED_SHARE * piece.length) continue;
        for (const at of piece) probability[at] = limit;
    }
}
