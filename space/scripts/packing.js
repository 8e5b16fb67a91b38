/* Pictures and archives, written in the browser: a module, shared with the page in web/. */

export const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
export const GREY = 0, RGB = 2, RGB_ALPHA = 6;

/* A PNG file, as Blob, of exactly these pixels: {width, height, channels: 1|3|4, data}, data of 8 or 16 bits. */
export async function encodePng({width, height, channels, data}) {
    const bytes = data.BYTES_PER_ELEMENT, length = width * channels * bytes, lines = new Uint8Array(height * (length + 1));
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    for (let row = 0; row < height; row++) {
        const start = row * (length + 1) + 1; // before it is the filter, none
        if (bytes === 1) lines.set(data.subarray(row * length, (row + 1) * length), start);
        else for (let index = 0; index < width * channels; index++) {
            const value = view.getUint16((row * width * channels + index) * 2, true);
            lines[start + 2 * index] = value >> 8;
            lines[start + 2 * index + 1] = value & 255;
        }
    }
    const stream = new Blob([lines]).stream().pipeThrough(new CompressionStream('deflate'));
    const packed = new Uint8Array(await new Response(stream).arrayBuffer());
    const header = new Uint8Array(13), headerView = new DataView(header.buffer);
    headerView.setUint32(0, width);
    headerView.setUint32(4, height);
    header[8] = 8 * bytes;
    header[9] = {1: GREY, 3: RGB, 4: RGB_ALPHA}[channels];
    const parts = [new Uint8Array(SIGNATURE), chunk('IHDR', header), chunk('IDAT', packed), chunk('IEND', new Uint8Array(0))];
    return new Blob(parts, {type: 'image/png'});
}

function chunk(kind, body) {
    const whole = new Uint8Array(body.length + 12), view = new DataView(whole.buffer);
    view.setUint32(0, body.length);
    whole.set([...kind].map(letter => letter.charCodeAt(0)), 4);
    whole.set(body, 8);
    view.setUint32(body.length + 8, checksum(whole.subarray(4, body.length + 8)));
    return whole;
}

const REMAINDERS = Uint32Array.from({length: 256}, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ byte >>> 1 : byte >>> 1;
    return byte;
});

export function checksum(bytes) {
    let remainder = 0xffffffff;
    for (const byte of bytes) remainder = REMAINDERS[(remainder ^ byte) & 255] ^ remainder >>> 8;
    return (remainder ^ 0xffffffff) >>> 0;
}

/* A ZIP archive, as Blob: files is name → bytes, which are stored as they are. */
export function packZip(files) {
    const parts = [], directory = [];
    let offset = 0;
    for (const [name, bytes] of Object.entries(files)) {
        const path = new TextEncoder().encode(name);
        // Version 2.0, names in UTF-8, stored, on the first day that ZIP knows; checksum, size twice, length of the name.
        const common = [[20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], [checksum(bytes), 4], [bytes.length, 4], [bytes.length, 4],
            [path.length, 2], [0, 2]];
        directory.push(fields([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path);
        const head = [fields([0x04034b50, 4], ...common), path, bytes];
        parts.push(...head);
        offset += head.reduce((sum, part) => sum + part.length, 0);
    }
    const count = directory.length / 2, size = directory.reduce((sum, part) => sum + part.length, 0);
    const end = fields([0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]);
    return new Blob([...parts, ...directory, end], {type: 'application/zip'});
}

/* Whole numbers of 2 or 4 bytes, one after another, the lowest byte first. */
function fields(...numbers) {
    return Uint8Array.from(numbers.flatMap(([value, bytes]) => Array.from({length: bytes}, (_, byte) => value >>> 8 * byte & 255)));
}
