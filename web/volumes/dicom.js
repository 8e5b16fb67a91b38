/* The DICOM files of one series of slices, as they are not packed → a scan of nifti.js, as the package reads them.

   What this cannot read it says: compressed pixels, several frames in one file, several series, slices that are missing,
   uneven or aslant. The Python package reads all of these. Messages count files instead of naming them, because their names
   and tags may name a person. */

import {UnusableError} from '../reading.js';
import {geometryOf} from './nifti.js';

const IMPLICIT = '1.2.840.10008.1.2', EXPLICIT = '1.2.840.10008.1.2.1';
const LONG_KINDS = ['OB', 'OD', 'OF', 'OL', 'OV', 'OW', 'SQ', 'SV', 'UC', 'UN', 'UR', 'UT', 'UV'];
const ITEM = 0xfffee000, ITEM_END = 0xfffee00d, SEQUENCE_END = 0xfffee0dd, PIXELS = 0x7fe00010, UNKNOWN_LENGTH = 0xffffffff;
const TAGS = {
    syntax: 0x00020010, imageType: 0x00080008, modality: 0x00080060, seriesName: 0x0008103e, contrastName: 0x00089209,
    agent: 0x00180010, agents: 0x00180012, sequenceName: 0x00180024, thickness: 0x00180050, repetition: 0x00180080, echo: 0x00180081, gap: 0x00180088,
    protocolName: 0x00181030, series: 0x0020000e, position: 0x00200032, orientation: 0x00200037, samples: 0x00280002,
    colours: 0x00280004, frames: 0x00280008, rows: 0x00280010, columns: 0x00280011, spacing: 0x00280030, allocated: 0x00280100,
    stored: 0x00280101, highest: 0x00280102, signed: 0x00280103, intercept: 0x00281052, slope: 0x00281053, pixels: PIXELS,
};
const NAMES = new Map(Object.entries(TAGS).map(([name, tag]) => [tag, name]));
const WHOLE_NUMBERS = ['samples', 'rows', 'columns', 'allocated', 'stored', 'highest', 'signed'];
const SAME_PLACE_MM = 0.01, UNEVEN_GAP = 0.05, ALIKE = 0.005;
const ELSEWHERE = '; the Python page reads such files.';

export const isDicom = bytes => String.fromCharCode(...bytes.subarray(128, 132)) === 'DICM';

/* files: the bytes of each; rules: of settings.json. Throws UnusableError. */
export function readDicom(files, {protocol, max_voxels: most}, {min_side: least}) {
    const refuse = reason => { throw new UnusableError(`The DICOM series: ${reason}`); };
    const slices = files.map((bytes, index) => readSlice(bytes, `file ${index + 1} of ${files.length} `, refuse, least));
    const [first] = slices;
    const apart = (one, other) => one.some((value, index) => Math.abs(value - other[index]) > ALIKE);
    for (const slice of slices) {
        const isOther = slice.series !== first.series || slice.rows !== first.rows || slice.columns !== first.columns
            || slice.colours !== first.colours || apart(slice.orientation, first.orientation) || apart(slice.spacing, first.spacing);
        if (isOther) refuse(`these are slices of several series${ELSEWHERE}`);
    }
    const {columns, rows} = first, count = slices.length, voxelCount = columns * rows * count;
    if (voxelCount > most)
        refuse(`the scan has ${columns} × ${rows} × ${count} voxels; this page takes up to ${most}, the Python page more.`);
    const normal = cross(first.orientation.slice(0, 3), first.orientation.slice(3));
    const placed = slices.map(slice => ({...slice, height: dot(slice.position, normal)}));
    placed.sort((one, other) => one.height - other.height);
    const step = stepOf(placed, normal, refuse), [row, column] = first.spacing;
    const across = first.orientation.slice(0, 3).map(value => value * column);
    const axes = [across, first.orientation.slice(3).map(value => value * row), step];
    // DICOM's axes point towards left, posterior and superior.
    const affine = [-1, -1, 1].map((sign, axis) => [...axes.map(vector => sign * vector[axis]), sign * placed[0].position[axis]]);
    const voxels = new Float32Array(voxelCount);
    placed.forEach((slice, number) => voxels.set(valuesOf(slice), number * columns * rows));
    if (first.colours === 'MONOCHROME1') {
        const brightest = voxels.reduce((highest, value) => Math.max(highest, value), -Infinity);
        voxels.forEach((value, at) => { voxels[at] = brightest - value; });
    }
    const shape = [columns, rows, count], said = protocolWarning(first, protocol);
    return {
        voxels, shape, affine, sliceAxis: 2, slope: 1, intercept: 0, oriented: true, warnings: said ? [said] : [],
        geometry: geometryOf(affine, shape, true),
    };
}

const dot = (one, other) => one[0] * other[0] + one[1] * other[1] + one[2] * other[2];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];

/* From one slice to the next, in mm; the slices have to follow each other evenly, at right angles. */
function stepOf(placed, normal, refuse) {
    const last = placed.length - 1, [{gap, thickness, position: start}] = placed;
    if (!last) {
        const distance = Math.abs(gap || thickness || 0);
        if (!distance) refuse(`its tags do not say how thick the slice is${ELSEWHERE}`);
        return normal.map(value => value * distance);
    }
    const gaps = placed.slice(1).map(({height}, index) => height - placed[index].height);
    const usual = [...gaps].sort((one, other) => one - other)[last >> 1];
    if (gaps.some(distance => distance <= SAME_PLACE_MM)) refuse(`several slices lie at one place${ELSEWHERE}`);
    if (gaps.some(distance => Math.abs(distance - usual) > UNEVEN_GAP * usual))
        refuse(`slices are missing, or not evenly apart${ELSEWHERE}`);
    const step = placed[last].position.map((value, axis) => (value - start[axis]) / last);
    const aside = placed.some(({position, height}) => {
        const away = position.map((value, axis) => value - start[axis] - normal[axis] * (height - placed[0].height));
        return Math.hypot(...away) > UNEVEN_GAP;
    });
    if (aside) refuse(`its slices follow each other aslant${ELSEWHERE}`);
    return step;
}

// ------------------------------------------------------------------------------------------------------------- one file

function readSlice(bytes, label, refuse, least) {
    let tags;
    try {
        tags = readTags(bytes);
    } catch {
        refuse(`${label}is damaged; its tags cannot be read.`);
    }
    if (![IMPLICIT, EXPLICIT].includes(tags.syntax))
        refuse(`${label}is compressed, or written in another order of bytes${ELSEWHERE}`);
    if (!tags.pixels || !tags.rows || !tags.columns) refuse(`${label}holds no picture.`);
    if (Math.min(tags.rows, tags.columns) < least)
        refuse(`${label}has ${tags.columns} × ${tags.rows} pixels; each side needs at least ${least}.`);
    if (Number(tags.frames || 1) > 1) refuse(`${label}holds several slices${ELSEWHERE}`);
    if (!['MONOCHROME1', 'MONOCHROME2'].includes(tags.colours) || tags.samples > 1)
        refuse(`${label}is coloured; allowed are MONOCHROME1 and MONOCHROME2.`);
    if (![8, 16].includes(tags.allocated)) refuse(`${label}has pixels of ${tags.allocated} bits${ELSEWHERE}`);
    if (tags.pixels.length < tags.rows * tags.columns * tags.allocated / 8)
        refuse(`${label}is truncated; it ends before its pixels do.`);
    const numbers = (name, count) => {
        const found = (tags[name] ?? '').split('\\').map(Number);
        if (found.length !== count || !found.every(Number.isFinite) || !found.some(value => value)) return null;
        return found;
    };
    const [orientation, spacing] = [numbers('orientation', 6), numbers('spacing', 2)];
    const position = numbers('position', 3) ?? (tags.position && [0, 0, 0]);
    if (!orientation || !spacing || !position)
        refuse(`${label}does not say where it lies, or how large its pixels are${ELSEWHERE}`);
    const number = (name, otherwise) => tags[name] === undefined || tags[name] === '' ? otherwise : Number(tags[name]);
    return {
        ...tags, orientation, spacing, position, slope: number('slope', 1), intercept: number('intercept', 0), gap: number('gap', 0),
        thickness: number('thickness', 0),
    };
}

/* Our tags by their names: whole numbers as such, the pixels as bytes, all else as text. */
function readTags(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), tags = {};
    for (let at = 132, explicit = true; at < bytes.length;) {
        const isMeta = view.getUint16(at, true) === 2;
        if (!isMeta) explicit = tags.syntax !== IMPLICIT;
        if (!isMeta && ![IMPLICIT, EXPLICIT].includes(tags.syntax)) return tags;
        const {tag, start, length} = elementAt(view, at, explicit), name = NAMES.get(tag);
        if (tag === PIXELS && length === UNKNOWN_LENGTH) throw new Error('packed pixels');
        at = length === UNKNOWN_LENGTH ? endOfSequence(view, start, explicit) : start + length;
        if (!name) continue;
        const content = bytes.subarray(start, at);
        if (name === 'pixels') return {...tags, pixels: content};
        if (WHOLE_NUMBERS.includes(name)) tags[name] = view.getUint16(start, true);
        else tags[name] = new TextDecoder('latin1').decode(content).replace(/[\0 ]+$/, '').trim();
    }
    return tags;
}

function elementAt(view, at, explicit) {
    const tag = view.getUint16(at, true) * 0x10000 + view.getUint16(at + 2, true);
    if (!explicit || tag >= ITEM && tag <= SEQUENCE_END) return {tag, start: at + 8, length: view.getUint32(at + 4, true)};
    const kind = String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5));
    return LONG_KINDS.includes(kind)
        ? {tag, start: at + 12, length: view.getUint32(at + 8, true)} : {tag, start: at + 8, length: view.getUint16(at + 6, true)};
}

/* The place after a sequence, or an item of one, whose length is not said. */
function endOfSequence(view, at, explicit) {
    for (;;) {
        const {tag, start, length} = elementAt(view, at, explicit);
        if (tag === ITEM_END || tag === SEQUENCE_END) return start;
        at = length === UNKNOWN_LENGTH ? endOfSequence(view, start, explicit) : start + length;
    }
}

function valuesOf({pixels, rows, columns, allocated, stored, highest, signed, slope, intercept}) {
    const count = rows * columns;
    const values = new Float32Array(count);
    const view = new DataView(pixels.buffer, pixels.byteOffset, pixels.byteLength);
    const unused = 32 - stored, shift = highest + 1 - stored, [factor, summand] = [slope, intercept].map(Math.fround);
    for (let at = 0; at < count; at++) {
        const raw = (allocated === 8 ? view.getUint8(at) : view.getUint16(2 * at, true)) >> shift << unused;
        values[at] = Math.fround((signed ? raw >> unused : raw >>> unused) * factor) + summand;
    }
    return values;
}

// ------------------------------------------------------------------------------------------------------------- protocol

/* A sentence unless the tags say that this is T1-weighted MR with contrast, as protocol.py reads them; patterns: its own. */
function protocolWarning(tags, {patterns, knows, max_repetition: longest, max_echo: latest}) {
    const find = name => new RegExp(patterns[name], 'gi'), has = (name, text) => find(name).test(text);
    const named = [tags.contrastName, tags.seriesName, tags.protocolName, tags.sequenceName];
    const names = named.map(name => (name ?? '').replaceAll('_', ' '));
    const description = names.join(' '), isMr = (tags.modality ?? 'MR') === 'MR';
    let isT1 = null;
    if (has('T1_NAMES', description) && !description.toUpperCase().includes('T2')) isT1 = true;
    else if (has('OTHER_NAMES', description)) isT1 = false;
    else if (Number(tags.repetition) && Number(tags.echo)) isT1 = Number(tags.repetition) <= longest && Number(tags.echo) <= latest;
    const single = names.map(name => name.replace(find('BOTH_NAMES'), '')).join(' '), agent = (tags.agent ?? '').trim();
    const noAgent = new RegExp(`^(?:${patterns.NO_AGENT})$`, 'i').test(agent);
    const isWithout = noAgent || has('WITHOUT_NAMES', single);
    const isNamed = Boolean(agent && !noAgent) || Boolean(tags.agents);
    const isWith = isNamed || has('CONTRAST_NAMES', single.replace(find('WITHOUT_NAMES'), ' '));
    const contrast = isWith === isWithout ? null : isWith;
    if (!isMr) return `By its tags this is no MR scan: ${knows}`;
    if (isT1 === false) return `By its tags this series is not T1-weighted: ${knows}`;
    if (contrast === false) return `By its tags this series was taken without contrast: ${knows}`;
    return isT1 && contrast ? null : `The tags do not say whether this is T1-weighted with contrast: ${knows}`;
}
