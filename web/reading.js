/* Any picture file that a browser can read, and NumPy's arrays → their values, as `read_image` of the Python package gives them. */

import {decodeNpy, isNpy} from './npy.js';
import {countFrames, decodePng, isPng, pngSize} from './png.js';
import {roundToEven} from './raster.js';

const STRIP_PIXELS = 2 ** 22;

const starts = (bytes, text, at = 0) => [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));

// What people drop and a browser cannot read: by the first bytes of the file, what it is.
const OTHERS = [
    [bytes => starts(bytes, 'II*\0') || starts(bytes, 'MM\0*'), 'a TIFF picture'],
    [bytes => starts(bytes, 'n+1\0', 344) || starts(bytes, 'ni1\0', 344), 'a NIfTI volume'],
    [bytes => bytes[0] === 0x1f && bytes[1] === 0x8b, 'packed (gzip), such as a NIfTI volume'],
    [bytes => starts(bytes, 'PK'), 'a ZIP archive'],
    [bytes => starts(bytes, 'ftyp', 4) && !starts(bytes, 'avif', 8), 'a HEIC picture or a film'],
];

/* The sentence that says why a picture cannot be used. */
export class UnusableError extends Error {}

/* {width, height, channels: 1|3, depth: 8|16, data, fullSize}, transparency laid over black; throws UnusableError.

   What has more than `max_side` px along a side is scaled down, as `read_picture` does it: by a whole number, each new pixel
   the mean of a square. fullSize: [width, height] of it before, or null.
   name: what to call the file in a message. limits: of settings.json. */
export async function readPicture(bytes, name, limits) {
    const refuse = reason => { throw new UnusableError(`${name}: ${reason}`); };
    if (!bytes.length) refuse('the file is empty (0 bytes).');
    if (bytes.length > limits.max_file_bytes) refuse(`the file has over ${limits.max_file_bytes / 2 ** 20} MiB, which no slice needs.`);
    for (const [is, what] of OTHERS)
        if (is(bytes)) refuse(`this is ${what}, which this page cannot read; save the slice as PNG, or use the Python package.`);
    const open = isPng(bytes) ? openPng : isNpy(bytes) ? openNpy : openInBrowser;
    const {strips, width, height, factor} = await open(bytes, limits, refuse);
    const parts = [];
    try {
        for await (const strip of strips) parts.push(scaledDown(overBlack(strip), factor));
    } catch (error) {
        if (error instanceof UnusableError) throw error;
        refuse('the image is truncated or damaged and cannot be decoded.');
    }
    const picture = joined(parts), isTurned = parts.length === 1 && (picture.width > picture.height) !== (width > height);
    return {...picture, fullSize: factor === 1 ? null : isTurned ? [height, width] : [width, height]};
}

/* By how much a picture of that size is scaled down, after it was checked as in `_check_size`. */
function factorOf({width, height}, {min_side: least, max_side: most, max_million_pixels: millions}, refuse) {
    if (width * height > millions * 1e6) refuse(`the image has ${width} × ${height} pixels; at most ${millions} million are accepted.`);
    const factor = Math.max(Math.ceil(Math.max(width, height) / most), 1);
    const beside = factor > 1 ? ' beside so long a one' : '';
    if (Math.min(width, height) < least * factor)
        refuse(`the image is ${width} × ${height} pixels; each side needs at least ${least * factor} pixels${beside}.`);
    return factor;
}

function openPng(bytes, limits, refuse) {
    const size = pngSize(bytes), factor = factorOf(size, limits, refuse), frames = countFrames(bytes);
    if (frames > 1) refuse(`the file holds ${frames} frames; give one slice per file.`);
    return {...size, factor, strips: decodePng(bytes, factor > 1 ? factor : Infinity)};
}

function openNpy(bytes, limits, refuse) {
    const picture = decodeNpy(bytes, refuse), {width, height} = picture;
    return {width, height, factor: factorOf(picture, limits, refuse), strips: [picture]};
}

/* JPEG, WebP, BMP, GIF and AVIF; turned upright as their tags say, their colours as they are stored. */
async function openInBrowser(bytes, limits, refuse) {
    if (starts(bytes, 'WEBP', 8) && starts(bytes, 'VP8X', 12) && bytes[20] & 2)
        refuse('the file holds several frames; give one slice per file.');
    let bitmap;
    try {
        const options = {colorSpaceConversion: 'none', premultiplyAlpha: 'none', imageOrientation: 'from-image'};
        bitmap = await createImageBitmap(new Blob([bytes]), options);
    } catch (error) {
        refuse('the file is not an image that a browser can read (PNG, JPEG, WebP or BMP), or it is damaged.');
    }
    const {width, height} = bitmap, factor = factorOf(bitmap, limits, refuse);
    return {width, height, factor, strips: stripsOf(bitmap, factor)};
}

/* A canvas of the whole picture would take as much again. */
function* stripsOf(bitmap, factor) {
    const {width, height} = bitmap, rows = factor * Math.max(Math.floor(STRIP_PIXELS / width / factor), 1);
    const context = new OffscreenCanvas(width, Math.min(rows, height)).getContext('2d', {willReadFrequently: true});
    for (let row = 0; row < height; row += rows) {
        const high = Math.min(rows, height - row);
        context.clearRect(0, 0, width, rows);
        context.drawImage(bitmap, 0, -row);
        yield {width, height: high, channels: 4, depth: 8, data: context.getImageData(0, 0, width, high).data};
    }
    bitmap.close();
}

/* The mean of every square of `factor` px a side, of integers rounded; at the edge of what is left of one. */
function scaledDown(picture, factor) {
    if (factor === 1) return picture;
    const {width, height, channels, data} = picture, wide = Math.ceil(width / factor), high = Math.ceil(height / factor);
    const isInteger = !(data instanceof Float32Array || data instanceof Float64Array);
    const scaled = new data.constructor(wide * high * channels), sums = new Float64Array(wide * channels);
    for (let row = 0; row < high; row++) {
        const first = row * factor, rows = Math.min(factor, height - first);
        sums.fill(0);
        for (let y = first; y < first + rows; y++)
            for (let x = 0; x < width; x++)
                for (let channel = 0; channel < channels; channel++)
                    sums[Math.floor(x / factor) * channels + channel] += data[(y * width + x) * channels + channel];
        sums.forEach((sum, at) => {
            const columns = Math.min(factor, width - Math.floor(at / channels) * factor);
            const mean = sum / (rows * columns);
            scaled[row * wide * channels + at] = isInteger ? roundToEven(mean) : mean;
        });
    }
    return {...picture, width: wide, height: high, data: scaled};
}

/* Strips of a picture → it; those that are grey have one channel. */
function joined(parts) {
    if (parts.length === 1) return parts[0];
    const [{width, depth}] = parts, channels = Math.max(...parts.map(part => part.channels));
    const height = parts.reduce((sum, part) => sum + part.height, 0);
    const data = new parts[0].data.constructor(width * height * channels);
    let at = 0;
    for (const part of parts) {
        const inColours = () => part.data.constructor.from({length: 3 * part.data.length}, (_, index) => part.data[Math.floor(index / 3)]);
        const values = part.channels === channels ? part.data : inColours();
        data.set(values, at);
        at += values.length;
    }
    return {width, height, depth, channels, data};
}

/* Four channels → three: what is transparent becomes black, as the background of a slice is. Equal ones → one. */
function overBlack(picture) {
    if (picture.channels !== 4) return picture;
    const {width, height, depth, data} = picture, opaque = depth === 16 ? 65535 : 255, count = width * height;
    const Values = depth === 16 ? Uint16Array : Uint8Array, rgb = new Values(3 * count);
    let isGrey = true;
    for (let pixel = 0; pixel < count; pixel++) {
        const alpha = data[4 * pixel + 3], share = Math.fround(alpha / opaque);
        for (let channel = 0; channel < 3; channel++) {
            const value = data[4 * pixel + channel];
            rgb[3 * pixel + channel] = alpha === opaque ? value : roundToEven(Math.fround(value * share));
        }
        isGrey &&= rgb[3 * pixel] === rgb[3 * pixel + 1] && rgb[3 * pixel] === rgb[3 * pixel + 2];
    }
    if (!isGrey) return {width, height, depth, channels: 3, data: rgb};
    const grey = new Values(count);
    for (let pixel = 0; pixel < count; pixel++) grey[pixel] = rgb[3 * pixel];
    return {width, height, depth, channels: 1, data: grey};
}
