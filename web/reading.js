/* Any picture file that a browser can read → its values, as `read_image` of the Python package gives them. */

import {countFrames, decodePng, isPng, pngSize} from './png.js';

const starts = (bytes, text, at = 0) => [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));

// What people drop and a browser cannot read: by the first bytes of the file, what it is.
const OTHERS = [
    [bytes => starts(bytes, 'II*\0') || starts(bytes, 'MM\0*'), 'a TIFF picture'],
    [bytes => starts(bytes, 'DICM', 128), 'a DICOM file'],
    [bytes => starts(bytes, 'n+1\0', 344) || starts(bytes, 'ni1\0', 344), 'a NIfTI volume'],
    [bytes => bytes[0] === 0x1f && bytes[1] === 0x8b, 'packed (gzip), such as a NIfTI volume'],
    [bytes => starts(bytes, 'PK'), 'a ZIP archive'],
    [bytes => starts(bytes, '\x93NUMPY'), 'a NumPy array'],
    [bytes => starts(bytes, 'ftyp', 4) && !starts(bytes, 'avif', 8), 'a HEIC picture or a film'],
];

/* The sentence that says why a picture cannot be used. */
export class UnusableError extends Error {}

/* {width, height, channels: 1|3, depth: 8|16, data}, transparency laid over black; throws UnusableError.

   name: what to call the file in a message. limits: of settings.json. */
export async function readPicture(bytes, name, limits) {
    const refuse = reason => { throw new UnusableError(`${name}: ${reason}`); };
    if (!bytes.length) refuse('the file is empty (0 bytes).');
    if (bytes.length > limits.max_file_bytes) refuse(`the file has over ${limits.max_file_bytes / 2 ** 20} MiB, which no slice needs.`);
    for (const [is, what] of OTHERS)
        if (is(bytes)) refuse(`this is ${what}, which this page cannot read; save the slice as PNG, or use the Python package.`);
    const check = ({width, height}) => {
        const size = `the image is ${width} × ${height} pixels; each side`;
        if (Math.min(width, height) < limits.min_side) refuse(`${size} needs at least ${limits.min_side} pixels.`);
        if (Math.max(width, height) > limits.max_side) refuse(`${size} may have at most ${limits.max_side} pixels.`);
    };
    if (!isPng(bytes)) return overBlack(await decodeInBrowser(bytes, check, refuse));
    check(pngSize(bytes));
    const frames = countFrames(bytes);
    if (frames > 1) refuse(`the file holds ${frames} frames; give one slice per file.`);
    try {
        return overBlack(await decodePng(bytes));
    } catch (error) {
        return refuse('the image is truncated or damaged and cannot be decoded.');
    }
}

/* JPEG, WebP, BMP, GIF and AVIF; turned upright as their tags say, their colours as they are stored. */
async function decodeInBrowser(bytes, check, refuse) {
    if (starts(bytes, 'WEBP', 8) && starts(bytes, 'VP8X', 12) && bytes[20] & 2)
        refuse('the file holds several frames; give one slice per file.');
    let bitmap;
    try {
        const options = {colorSpaceConversion: 'none', premultiplyAlpha: 'none', imageOrientation: 'from-image'};
        bitmap = await createImageBitmap(new Blob([bytes]), options);
    } catch (error) {
        refuse('the file is not an image that a browser can read (PNG, JPEG, WebP or BMP), or it is damaged.');
    }
    check(bitmap);
    const {width, height} = bitmap;
    const context = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return {width, height, channels: 4, depth: 8, data: context.getImageData(0, 0, width, height).data};
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

/* As NumPy rounds: halves go to the even number. */
export function roundToEven(value) {
    const below = Math.floor(value), rest = value - below;
    return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}
