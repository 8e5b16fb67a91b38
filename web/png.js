/* PNG files to the exact values in them and back: a canvas would keep 8 of 16 bits and blur what is transparent. */

import {GREY, RGB, RGB_ALPHA, SIGNATURE} from './scripts/packing.js';
import {unpacked} from './unpacking.js';

const PALETTE = 3, GREY_ALPHA = 4;
const CHANNELS = {[GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGB_ALPHA]: 4};
const DEPTHS = {[GREY]: [1, 2, 4, 8, 16], [RGB]: [8, 16], [PALETTE]: [1, 2, 4, 8], [GREY_ALPHA]: [8, 16], [RGB_ALPHA]: [8, 16]};
// Of an interlaced picture, each pass: first column, first row, step of columns, step of rows.
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const PLAIN = [[0, 0, 1, 1]];
const ORIENTATION_TAG = 0x112;
// Orientation → the pixel (column, row) that belongs to (x, y) of the upright picture; 1 is upright already.
const TURNS = {
    2: (x, y, width) => [width - 1 - x, y],
    3: (x, y, width, height) => [width - 1 - x, height - 1 - y],
    4: (x, y, width, height) => [x, height - 1 - y],
    5: (x, y) => [y, x],
    6: (x, y, width, height) => [y, height - 1 - x],
    7: (x, y, width, height) => [width - 1 - y, height - 1 - x],
    8: (x, y, width) => [width - 1 - y, x],
};

export const isPng = bytes => SIGNATURE.every((byte, index) => bytes[index] === byte);

/* Width and height by the header: {width, height}. */
export function pngSize(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return {width: view.getUint32(16), height: view.getUint32(20)};
}

/* How many pictures the file holds, as an animation has several. */
export function countFrames(bytes) {
    for (const {kind, body} of chunks(bytes)) {
        if (kind === 'acTL') return new DataView(body.buffer, body.byteOffset).getUint32(0);
        if (kind === 'IDAT') return 1;
    }
    return 1;
}

/* The pixels as they are stored, in strips of so many rows from the top: {width, height, channels: 1|3|4, depth: 8|16, data},
   data a Uint8Array or Uint16Array. What is interlaced or turned comes as a whole.

   Palettes become colours, fewer than 8 bits become 8, a transparent colour becomes a fourth channel, 0 in it, and the
   picture is turned upright as its EXIF data say.
   Throws where the file is damaged. */
export async function* decodePng(bytes, rows) {
    const parts = [];
    let header, palette, transparent, orientation = 1;
    for (const {kind, body} of chunks(bytes)) {
        if (kind === 'IHDR') header = readHeader(body);
        else if (kind === 'PLTE') palette = body;
        else if (kind === 'tRNS') transparent = body;
        else if (kind === 'IDAT') parts.push(body);
        else if (kind === 'eXIf') orientation = orientationOf(body);
    }
    if (!header || !parts.length) throw new Error('without pixels');
    const take = unpacked(parts, 'deflate'), whole = header.interlaced || orientation !== 1;
    const step = Math.min(whole ? header.height : rows, header.height), passes = header.interlaced ? PASSES : PLAIN;
    let above = null;
    for (let row = 0; row < header.height; row += step) {
        const strip = {...header, height: Math.min(step, header.height - row)}, lines = await take(sizeOf(strip, passes));
        const values = unfilter(lines, strip, passes, above);
        above = lines.slice(-lineBytes(header.width, header));
        yield turned(finish(values, strip, palette, transparent), orientation);
    }
}

function* chunks(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = SIGNATURE.length; at + 12 <= bytes.length;) {
        const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
        yield {kind, body: bytes.subarray(at + 8, at + 8 + length)};
        if (kind === 'IEND') return;
        at += length + 12;
    }
}

function readHeader(body) {
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    const [depth, color, compression, filter, interlace] = body.subarray(8);
    if (!DEPTHS[color]?.includes(depth) || compression || filter || interlace > 1) throw new Error('of a kind that there is not');
    return {
        width: view.getUint32(0), height: view.getUint32(4), depth, color, interlaced: interlace === 1,
        channels: CHANNELS[color],
    };
}

const passSize = ({width, height}, [x, y, stepX, stepY]) => [
    Math.max(Math.ceil((width - x) / stepX), 0), Math.max(Math.ceil((height - y) / stepY), 0),
];
const lineBytes = (width, {depth, channels}) => Math.ceil(width * depth * channels / 8);

function sizeOf(header, passes) {
    let size = 0;
    for (const pass of passes) {
        const [width, height] = passSize(header, pass);
        if (width) size += height * (lineBytes(width, header) + 1);
    }
    return size;
}

/* Lines of differences → values of the picture, [height, width, channels]; above: the line above it, or null. */
function unfilter(lines, header, passes, lineAbove) {
    const {width, height, depth, channels} = header;
    const values = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
    const step = Math.max(depth * channels >> 3, 1);
    let at = 0;
    for (const pass of passes) {
        const [passWidth, passHeight] = passSize(header, pass), length = lineBytes(passWidth, header);
        if (!passWidth) continue;
        let above = lineAbove ?? new Uint8Array(length);
        for (let row = 0; row < passHeight; row++) {
            const line = lines.subarray(at + 1, at + 1 + length);
            undo(lines[at], line, above, step);
            place(line, values, header, pass, row, passWidth);
            above = line;
            at += length + 1;
        }
    }
    return values;
}

function undo(filter, line, above, step) {
    for (let index = 0; index < line.length; index++) {
        const left = index >= step ? line[index - step] : 0, up = above[index];
        if (filter === 1) line[index] += left;
        else if (filter === 2) line[index] += up;
        else if (filter === 3) line[index] += (left + up) >> 1;
        else if (filter === 4) line[index] += nearest(left, up, index >= step ? above[index - step] : 0);
        else if (filter) throw new Error('with a filter that there is not');
    }
}

function nearest(left, up, corner) {
    const estimate = left + up - corner;
    const toLeft = Math.abs(estimate - left), toUp = Math.abs(estimate - up), toCorner = Math.abs(estimate - corner);
    if (toLeft <= toUp && toLeft <= toCorner) return left;
    return toUp <= toCorner ? up : corner;
}

function place(line, values, {width, depth, channels}, [x, y, stepX, stepY], row, passWidth) {
    let target = ((y + row * stepY) * width + x) * channels;
    const jump = (stepX - 1) * channels, mask = (1 << depth) - 1;
    for (let index = 0; index < passWidth * channels; index++) {
        if (depth === 16) values[target] = line[2 * index] << 8 | line[2 * index + 1];
        else if (depth === 8) values[target] = line[index];
        else values[target] = line[index * depth >> 3] >> (8 - depth - (index * depth & 7)) & mask;
        target += 1 + ((index + 1) % channels ? 0 : jump);
    }
}

function finish(values, {width, height, depth, color, channels}, palette, transparent) {
    const count = width * height, picture = {width, height, depth: Math.max(depth, 8)};
    if (color === PALETTE) {
        if (!palette) throw new Error('without its palette');
        const size = transparent ? 4 : 3, data = new Uint8Array(count * size);
        for (let pixel = 0; pixel < count; pixel++) {
            const index = values[pixel];
            for (let channel = 0; channel < 3; channel++) data[pixel * size + channel] = palette[3 * index + channel] ?? 0;
            if (transparent) data[pixel * 4 + 3] = transparent[index] ?? 255;
        }
        return {...picture, channels: size, data};
    }
    if (depth < 8) {
        const scale = 255 / ((1 << depth) - 1);
        for (let pixel = 0; pixel < count; pixel++) values[pixel] *= scale;
    }
    if (color === GREY_ALPHA) return {...picture, channels: 4, data: spread(values, 2, pair => [pair[0], pair[0], pair[0], pair[1]])};
    if (!transparent || (color !== GREY && color !== RGB) || (color === GREY && depth === 16)) return {...picture, channels, data: values};
    const view = new DataView(transparent.buffer, transparent.byteOffset, transparent.byteLength), opaque = depth === 16 ? 65535 : 255;
    const scale = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
    const clear = Array.from({length: channels}, (_, channel) => view.getUint16(2 * channel) * scale);
    const data = spread(values, channels, one => {
        const alpha = one.every((value, channel) => value === clear[channel]) ? 0 : opaque;
        return channels === 1 ? [one[0], one[0], one[0], alpha] : [...one, alpha];
    });
    return {...picture, channels: 4, data};
}

function spread(values, channels, toFour) {
    const data = new values.constructor(values.length / channels * 4);
    for (let pixel = 0; pixel < values.length / channels; pixel++)
        data.set(toFour(Array.from(values.subarray(pixel * channels, (pixel + 1) * channels))), pixel * 4);
    return data;
}

/* Of EXIF data, 1 … 8; what is damaged says nothing. */
function orientationOf(exif) {
    const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength), little = exif[0] === 0x49;
    try {
        const start = view.getUint32(4, little), count = view.getUint16(start, little);
        for (let at = start + 2; at < start + 2 + 12 * count; at += 12)
            if (view.getUint16(at, little) === ORIENTATION_TAG) return view.getUint16(at + 8, little);
    } catch (error) {
        if (!(error instanceof RangeError)) throw error;
    }
    return 1;
}

function turned(picture, orientation) {
    const sourceOf = TURNS[orientation];
    if (!sourceOf) return picture;
    const {width, height, channels, data} = picture, size = orientation > 4 ? {width: height, height: width} : {width, height};
    const upright = new data.constructor(data.length);
    let target = 0;
    for (let y = 0; y < size.height; y++)
        for (let x = 0; x < size.width; x++) {
            const [column, row] = sourceOf(x, y, width, height), source = (row * width + column) * channels;
            for (let channel = 0; channel < channels; channel++) upright[target++] = data[source + channel];
        }
    return {...picture, ...size, data: upright};
}
