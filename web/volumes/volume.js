/* A scan turned so that its slices lie as radiologists look at them, as volume.py of the package turns it.

   A grid is {data, shape, strides, offset}: the same numbers may be seen along other axes without being copied. Slices are a
   grid [N, H, W]; an orientation is, for each axis, [the patient's axis that it follows, 1 or -1]. */

import {planeOf} from '../raster.js';
import {UnusableError} from '../reading.js';
import {geometryOf, writeNifti} from './nifti.js';

const SIDES = {R: [0, 1], L: [0, -1], A: [1, 1], P: [1, -1], S: [2, 1], I: [2, -1]};
// What lies at the end of every axis of slices; the planes by the patient's axis along which they follow each other.
const DISPLAY = {sagittal: 'LIP', coronal: 'AIL', axial: 'SPL'};
export const PLANES = Object.keys(DISPLAY);
const orientationOf = plane => [...DISPLAY[plane]].map(side => SIDES[side]);
const UNTURNED = 'The file does not say how the patient lies; the slices may be turned or mirrored.';
const SKEWED = 'Rows and columns of the slices meet at {angle}° instead of 90°: areas and diameters in mm are not exact.';
const HOLES = 'Some values are not finite; they were taken for {filler}.';
const MAX_SKEW = 0.01;

// ----------------------------------------------------------------------------------------------------------------- grids

/* Numbers one after another, the last axis fastest. */
export function gridOf(data, shape) {
    return {data, shape, strides: [shape[1] * shape[2], shape[2], 1], offset: 0};
}

/* The slice of that number as a plane of floats. */
export function planeAt({data, shape: [, height, width], strides: [across, down, along], offset}, number) {
    const values = new Float32Array(width * height), start = offset + number * across;
    for (let row = 0, at = 0; row < height; row++)
        for (let column = 0, from = start + row * down; column < width; column++, from += along) values[at++] = data[from];
    return planeOf(width, height, values);
}

/* Calls with every value and its place in the data, of the slice of that number. */
export function eachIn({data, shape: [, height, width], strides: [across, down, along], offset}, number, call) {
    for (let row = 0, at = 0; row < height; row++)
        for (let column = 0; column < width; column++, at++) call(offset + number * across + row * down + column * along, at);
}

/* Which axis of `end` each axis of `start` becomes, and whether it is mirrored: two orientations → [axis, 1 or -1] of each. */
function transformOf(start, end) {
    return start.map(([side, sign]) => {
        const axis = end.findIndex(([other]) => other === side);
        return [axis, end[axis][1] === sign ? 1 : -1];
    });
}

function turnedBy({data, shape, strides, offset}, transform) {
    const turned = {data, shape: [], strides: [], offset};
    transform.forEach(([axis, sign], from) => {
        turned.shape[axis] = shape[from];
        turned.strides[axis] = sign * strides[from];
        if (sign < 0) turned.offset += strides[from] * (shape[from] - 1);
    });
    return turned;
}

/* Slices of one plane as slices of another one. */
export const turned = (grid, start, end) => turnedBy(grid, transformOf(orientationOf(start), orientationOf(end)));

/* What belongs to the axes of the slices of one plane, in the order of those of another one. */
export function turnedSizes(sizes, start, end) {
    const result = [];
    transformOf(orientationOf(start), orientationOf(end)).forEach(([axis], from) => { result[axis] = sizes[from]; });
    return result;
}

// --------------------------------------------------------------------------------------------------------------- turning

/* {slices, plane, spacing: [row, column] in mm, sliceSpacing, voxelMl, affine, warnings, toNifti, viewed}, where plane is
   "unknown" and affine null if the file does not say how the patient lies. Throws UnusableError. */
export function volumeOf(scan, name, {min_side: least}) {
    const orientation = nearestOrientation(scan.affine), sliceAxis = sliceAxisOf(scan, orientation);
    const plane = PLANES[orientation[sliceAxis][0]], toDisplay = transformOf(orientation, orientationOf(plane));
    const source = {data: scan.voxels, shape: scan.shape, strides: [1, scan.shape[0], scan.shape[0] * scan.shape[1]], offset: 0};
    const {slices, filler} = valuesOf(turnedBy(source, toDisplay), scan), [, height, width] = slices.shape;
    const {shape, geometry} = scan; // what is kept of it
    if (Math.min(height, width) < least)
        throw new UnusableError(`${name}: its slices have ${width} × ${height} pixels; each side needs at least ${least}.`);
    const affine = turnedAffine(scan, toDisplay), axes = [0, 1, 2].map(axis => affine.map(row => row[axis]));
    const spacing = [axes[1], axes[2]].map(length), area = length(cross(axes[1], axes[2]));
    const whole = Math.abs(dot(axes[0], cross(axes[1], axes[2])));
    const skew = Math.abs(dot(axes[1], axes[2]) / (spacing[0] * spacing[1]));
    const angle = Math.round(Math.acos(Math.min(skew, 1)) * 180 / Math.PI);
    const seen = scan.oriented ? affine : plainAffine(spacing, whole / area);
    return {
        slices, plane: scan.oriented ? plane : 'unknown', spacing, sliceSpacing: whole / area, voxelMl: whole / 1000,
        affine: scan.oriented ? affine : null,
        warnings: [
            ...scan.warnings,
            ...skew > MAX_SKEW ? [SKEWED.replace('{angle}', angle)] : [],
            ...filler === null ? [] : [HOLES.replace('{filler}', Number(filler.toPrecision(6)))],
            ...scan.oriented ? [] : [UNTURNED],
        ],
        toNifti: values => writeNifti(inScan(values, slices.shape, toDisplay, shape), geometry),
        // As the viewer takes it: columns, rows, slices, where the file says they are, or as axial ones.
        viewed: values => writeNifti(values, {...geometryOf(viewedAffine(seen), [width, height, slices.shape[0]]), qformCode: 0}),
    };
}

const length = vector => Math.hypot(...vector);
const dot = (one, other) => one[0] * other[0] + one[1] * other[1] + one[2] * other[2];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
const viewedAffine = affine => affine.map(([slice, row, column, start]) => [column, row, slice, start]);

function plainAffine([row, column], across) {
    const rows = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]];
    orientationOf('axial').forEach(([side, sign], axis) => { rows[side][axis] = sign * [across, row, column][axis]; });
    return rows;
}

/* The patient's axis that each axis follows most, and the way: of the turn that is nearest to the affine, strongest first. */
function nearestOrientation(affine) {
    const columns = [0, 1, 2].map(axis => affine.map(row => row[axis])).map(column => column.map(value => value / length(column)));
    const turn = withoutShear([0, 1, 2].map(row => columns.map(column => column[row])));
    const strength = axis => Math.max(...turn.map(row => row[axis] ** 2)), orientation = [], taken = new Set();
    for (const axis of [0, 1, 2].sort((one, other) => strength(other) - strength(one))) {
        const free = [0, 1, 2].filter(side => !taken.has(side));
        const side = free.reduce((most, other) => Math.abs(turn[other][axis]) > Math.abs(turn[most][axis]) ? other : most);
        taken.add(side);
        orientation[axis] = [side, turn[side][axis] < 0 ? -1 : 1];
    }
    return orientation;
}

/* The orthogonal matrix nearest to one: Newton's steps towards what equals its own inverse, transposed. */
function withoutShear(matrix) {
    let turn = matrix;
    for (let step = 0; step < 30; step++) {
        const [a, b, c] = turn, size = dot(a, cross(b, c)), inverse = [cross(b, c), cross(c, a), cross(a, b)];
        turn = turn.map((row, y) => row.map((value, x) => (value + inverse[y][x] / size) / 2));
    }
    return turn;
}

/* The axis along which slices follow each other: of one voxel, or whose voxels are longest; of equals what makes them axial. */
function sliceAxisOf({affine, shape, sliceAxis}, orientation) {
    if (sliceAxis !== undefined) return sliceAxis; // DICOM says it
    const rank = axis => [Number(shape[axis] === 1), Math.round(100 * length(affine.map(row => row[axis]))), orientation[axis][0]];
    return [0, 1, 2].reduce((best, axis) => {
        const [one, other] = [rank(axis), rank(best)], first = one.findIndex((value, index) => value !== other[index]);
        return first >= 0 && one[first] > other[first] ? axis : best;
    });
}

/* What is not finite becomes black, as it is often what somebody cut off: the lowest value, 0 at most. */
function valuesOf(grid, {slope, intercept}) {
    const {data, shape, strides, offset} = grid, values = new Float32Array(shape[0] * shape[1] * shape[2]), holes = [];
    const isScaled = slope !== 1 || intercept !== 0, round = data instanceof Float32Array ? Math.fround : value => value;
    let at = 0, black = 0;
    for (let slice = 0; slice < shape[0]; slice++)
        for (let row = 0; row < shape[1]; row++)
            for (let column = 0; column < shape[2]; column++, at++) {
                const from = offset + slice * strides[0] + row * strides[1] + column * strides[2];
                values[at] = isScaled ? round(round(data[from] * round(slope)) + round(intercept)) : data[from];
                if (!Number.isFinite(values[at])) holes.push(at);
                else if (values[at] < black) black = values[at];
            }
    for (const hole of holes) values[hole] = black;
    return {slices: gridOf(values, shape), filler: holes.length ? black : null};
}

/* The rows of index (slice, row, column, 1) → mm. */
function turnedAffine({affine, shape}, transform) {
    return affine.map(row => {
        const turnedRow = [0, 0, 0, row[3]];
        transform.forEach(([axis, sign], from) => {
            turnedRow[axis] = sign * row[from];
            if (sign < 0) turnedRow[3] += row[from] * (shape[from] - 1);
        });
        return turnedRow;
    });
}

/* Values of slices, one after another, back in the order of the file. */
function inScan(values, shape, transform, scanShape) {
    const back = transform.reduce((result, [axis, sign], from) => Object.assign(result, {[axis]: [from, sign]}), []);
    const {offset, strides: [across, down, along]} = turnedBy(gridOf(values, shape), back);
    const result = new values.constructor(values.length);
    const [I, J, K] = scanShape;
    let at = 0;
    for (let k = 0; k < K; k++)
        for (let j = 0; j < J; j++)
            for (let i = 0; i < I; i++) result[at++] = values[offset + i * across + j * down + k * along];
    return result;
}
