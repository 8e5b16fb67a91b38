/* NIfTI, as nifti.py of the package has it: a `.nii` or `.nii.gz` → a scan; a mask → a `.nii.gz` that lies where it did.

   A scan is {voxels, shape: [I, J, K], affine, slope, intercept, oriented, warnings, geometry}: the first axis of the voxels
   runs fastest, affine holds the rows of index (i, j, k, 1) → mm towards the patient's right, anterior and superior side. */

import {UnusableError} from '../reading.js';
import {unpacked} from '../unpacking.js';

const HEADER_BYTES = {1: 348, 2: 540}, OFFSET = 352; // of the voxels in a file that is written
const MAX_HEADER_BYTES = 16 * 2 ** 20, MAX_VOLUMES = 4096;
const MM_PER_UNIT = {1: 1000, 2: 1, 3: 0.001};
const KINDS = {
    2: ['Uint8', 1], 4: ['Int16', 2], 8: ['Int32', 4], 16: ['Float32', 4], 64: ['Float64', 8], 256: ['Int8', 1],
    512: ['Uint16', 2], 768: ['Uint32', 4], 1024: ['BigInt64', 8], 1280: ['BigUint64', 8],
};

const isGzip = bytes => bytes[0] === 0x1f && bytes[1] === 0x8b;
const text = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 3));

/* 1 or 2, by the first bytes of a file that is not packed; 0 if it is no NIfTI. */
export function versionOf(bytes) {
    if (['n+1', 'ni1'].includes(text(bytes, 344))) return 1;
    return ['n+2', 'ni2'].includes(text(bytes, 4)) ? 2 : 0;
}

/* Whether a file is NIfTI, packed or not. */
export async function isNifti(bytes) {
    try {
        return versionOf(isGzip(bytes) ? await unpacked([bytes], 'gzip')(348) : bytes) > 0;
    } catch {
        return false;
    }
}

/* sentences, limits: of settings.json. Throws UnusableError, whose sentence calls the file by that name. */
export async function readNifti(bytes, name, sentences, limits) {
    const refuse = reason => { throw new UnusableError(`${name}: ${reason}`); };
    const take = isGzip(bytes) ? unpacked([bytes], 'gzip') : takeFrom(bytes);
    let head, header;
    try {
        head = await take(HEADER_BYTES[1]);
        const version = versionOf(head), longer = version === 2 ? await take(HEADER_BYTES[2] - HEADER_BYTES[1]) : [];
        header = readHeader(Uint8Array.of(...head, ...longer), version);
    } catch {
        refuse('the header is damaged.');
    }
    if (header.isApart) refuse('its voxels are in another file; this page reads NIfTI of one file, the Python package both.');
    const warnings = [sentences.unknown_sequence];
    const {shape, count} = shapeOf(header.dim, refuse);
    if (count > 1) warnings.push(`The file holds ${count} volumes; number 1 was read.`);
    if (strikeEmptySform(header)) warnings.push(sentences.empty_sform);
    if (!KINDS[header.datatype]) refuse('the voxels are of another type than integers and floats of up to 64 bits.');
    const [kind, itemBytes] = KINDS[header.datatype];
    const headBytes = HEADER_BYTES[header.version];
    const voxels = shape[0] * shape[1] * shape[2];
    if (!(header.offset >= headBytes && header.offset <= MAX_HEADER_BYTES))
        refuse(`the voxels start at byte ${header.offset}; allowed are ${headBytes} to 16 MiB.`);
    if (voxels > limits.max_voxels)
        refuse(`the scan has ${shape.join(' × ')} voxels; this page takes up to ${limits.max_voxels}, the Python page more.`);
    const affine = affineOf(header, shape), valid = header.slope !== 0 && Number.isFinite(header.slope);
    checkAffine(affine, refuse, limits);
    if (valid && !Number.isFinite(header.intercept)) refuse('the header is damaged.');
    let content;
    try {
        await take(header.offset - headBytes);
        content = await take(voxels * itemBytes);
    } catch {
        refuse('the file is truncated or damaged.');
    }
    return {
        voxels: typed(content, kind, itemBytes, header.little), shape, affine, warnings,
        slope: valid ? header.slope : 1, intercept: valid ? header.intercept : 0,
        oriented: header.qformCode > 0 || header.sformCode > 0,
        geometry: {...header, dim: count === 1 ? header.dim : [3, ...shape]},
    };
}

/* Values of a scan's grid, its first axis fastest, of 8 bits or floats, as `.nii.gz`, with the scan's geometry: a Blob. */
export function writeNifti(values, geometry) {
    const isFloat = values instanceof Float32Array, head = new Uint8Array(OFFSET), view = new DataView(head.buffer);
    const put = (kind, at, numbers, bytes) => {
        numbers.forEach((number, index) => view[`set${kind}`](at + index * bytes, number, true));
    };
    const {dim, pixdim, units, qformCode, sformCode, quaternion, qoffset, srows} = geometry;
    put('Int32', 0, [HEADER_BYTES[1]], 4);
    put('Int16', 40, Array.from({length: 8}, (_, index) => index <= dim[0] ? dim[index] : 1), 2);
    put('Int16', 70, isFloat ? [16, 32] : [2, 8], 2);
    put('Float32', 76, pixdim, 4);
    put('Float32', 108, [OFFSET, 1, 0], 4);
    view.setUint8(123, units);
    put('Int16', 252, [qformCode, sformCode], 2);
    put('Float32', 256, [...quaternion, ...qoffset, ...srows.flat()], 4);
    head.set([...'n+1'].map(letter => letter.charCodeAt(0)), 344);
    const stream = new Blob([head, values]).stream().pipeThrough(new CompressionStream('gzip'));
    return new Response(stream, {headers: {'Content-Type': 'application/gzip'}}).blob();
}

/* A geometry of three axes at right angles, as an affine says. */
export function geometryOf(affine, shape) {
    const lengths = [0, 1, 2].map(axis => Math.hypot(...affine.map(row => row[axis])));
    const turn = affine.map(row => lengths.map((length, axis) => row[axis] / length)), side = determinant(turn) < 0 ? -1 : 1;
    return {
        dim: [3, ...shape], pixdim: [side, ...lengths, 1, 1, 1, 1], units: 2, qformCode: 1, sformCode: 1,
        quaternion: quaternionOf(turn.map(([x, y, z]) => [x, y, side * z])), qoffset: affine.map(row => row[3]), srows: affine,
    };
}

/* b, c and d of the quaternion of a rotation; a is not negative. */
function quaternionOf([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]]) {
    const squares = [1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz];
    const largest = squares.indexOf(Math.max(...squares));
    const twice = Math.sqrt(squares[largest]);
    const [x, y, z] = [zy - yz, xz - zx, yx - xy];
    const [xAndY, xAndZ, yAndZ] = [xy + yx, xz + zx, yz + zy];
    const four = [
        [squares[0], x, y, z], [x, squares[1], xAndY, xAndZ], [y, xAndY, squares[2], yAndZ], [z, xAndZ, yAndZ, squares[3]],
    ][largest].map(value => value / (2 * twice));
    return four.slice(1).map(value => four[0] < 0 ? -value : value);
}

const takeFrom = bytes => {
    let at = 0;
    return size => {
        if (at + size > bytes.length) throw new Error('truncated');
        return bytes.subarray(at, at += size);
    };
};

function readHeader(head, version) {
    const view = new DataView(head.buffer), little = view.getInt32(0, true) === HEADER_BYTES[version];
    if (!version || (!little && view.getInt32(0) !== HEADER_BYTES[version])) throw new Error('no header');
    const get = (kind, at, count, bytes) => (
        Array.from({length: count}, (_, index) => Number(view[`get${kind}`](at + index * bytes, little))));
    const isFirst = version === 1;
    const real = (first, second, count) => isFirst ? get('Float32', first, count, 4) : get('Float64', second, count, 8);
    const rows = real(280, 400, 12);
    return {
        version, little, isApart: text(head, isFirst ? 344 : 4).startsWith('ni'),
        dim: isFirst ? get('Int16', 40, 8, 2) : get('BigInt64', 16, 8, 8), datatype: view.getInt16(isFirst ? 70 : 12, little),
        pixdim: real(76, 104, 8), offset: isFirst ? view.getFloat32(108, little) : get('BigInt64', 168, 1, 8)[0],
        slope: real(112, 176, 1)[0], intercept: real(116, 184, 1)[0], units: isFirst ? head[123] : view.getInt32(500, little),
        qformCode: isFirst ? view.getInt16(252, little) : view.getInt32(344, little),
        sformCode: isFirst ? view.getInt16(254, little) : view.getInt32(348, little),
        quaternion: real(256, 352, 3), qoffset: real(268, 376, 3), srows: [0, 4, 8].map(at => rows.slice(at, at + 4)),
    };
}

function shapeOf(dim, refuse) {
    const axes = dim[0];
    if (axes < 2 || axes > 7) refuse(`the scan has ${axes} axes; allowed are 2 to 7.`);
    const sizes = dim.slice(1, axes + 1);
    const others = sizes.slice(3);
    const count = others.reduce((product, size) => product * size, 1);
    if (!(count >= 1 && count <= MAX_VOLUMES) || others.some(size => size < 1))
        refuse(`the file claims ${count} volumes; allowed are 1 to ${MAX_VOLUMES}.`);
    const shape = [...sizes, 1].slice(0, 3);
    if (shape.some(size => size < 1 || size > 2048))
        refuse(`the scan has ${shape.join(' × ')} voxels; allowed are 1 to 2048 along each axis.`);
    return {shape, count};
}

/* An sform that spans no space says nothing where a qform does, or where it is all 0; whether that is to be said. */
function strikeEmptySform(header) {
    if (!(header.sformCode > 0)) return false;
    const values = header.srows.flat(), axes = header.srows.map(row => row.slice(0, 3));
    const spans = values.every(Number.isFinite) && Math.abs(determinant(axes)) > 0, hasQform = header.qformCode > 0;
    if (spans || !(hasQform || axes.flat().every(value => value === 0))) return false;
    header.sformCode = 0;
    return hasQform;
}

/* As nibabel finds it: the sform before the qform; without both, centred, with the first axis to the left. */
function affineOf({sformCode, qformCode, srows, quaternion: [b, c, d], qoffset, pixdim, units}, shape) {
    const scale = MM_PER_UNIT[units & 7] ?? 1, inMm = rows => rows.map(row => row.map(value => scale * value));
    if (sformCode > 0) return inMm(srows);
    const sizes = pixdim.slice(1, 4);
    if (qformCode > 0) {
        const a = Math.sqrt(Math.max(1 - (b * b + c * c + d * d), 0)), side = pixdim[0] < 0 ? -1 : 1;
        const turn = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ];
        return inMm(turn.map((row, axis) => [row[0] * sizes[0], row[1] * sizes[1], row[2] * sizes[2] * side, qoffset[axis]]));
    }
    return inMm([0, 1, 2].map(axis => {
        const size = axis ? sizes[axis] : -sizes[axis], row = [0, 0, 0, -size * (shape[axis] - 1) / 2];
        row[axis] = size;
        return row;
    }));
}

export function determinant([[a, b, c], [d, e, f], [g, h, i]]) {
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

function checkAffine(affine, refuse, {min_spacing: least, max_spacing: most}) {
    if (!affine.flat().every(Number.isFinite)) refuse('the position of its voxels is not finite; the header is damaged.');
    const sizes = [0, 1, 2].map(axis => Math.hypot(...affine.map(row => row[axis])));
    if (Math.min(...sizes) < least || Math.max(...sizes) > most)
        refuse(`its voxels are ${sizes.map(size => Number(size.toPrecision(6))).join(' × ')} mm; allowed are ${least} to ${most} mm.`);
    if (Math.abs(determinant(affine.map(row => row.slice(0, 3)))) < 0.1 * sizes[0] * sizes[1] * sizes[2])
        refuse('two axes of the scan point in the same direction; the header is damaged.');
}

/* Bytes as numbers; BigInts become numbers. */
function typed(content, kind, itemBytes, little) {
    if (!little) for (let at = 0; at < content.length; at += itemBytes) content.subarray(at, at + itemBytes).reverse();
    const aligned = content.byteOffset % itemBytes ? content.slice() : content;
    const values = new globalThis[`${kind}Array`](aligned.buffer, aligned.byteOffset, aligned.length / itemBytes);
    return kind.startsWith('Big') ? Float64Array.from(values, Number) : values;
}
