/* NumPy's `.npy` files → the values in them, as `read_picture` of the Python package takes them. */

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const KINDS = {
    '|b1': Uint8Array, '|u1': Uint8Array, '|i1': Int8Array, '<u2': Uint16Array, '<i2': Int16Array, '<u4': Uint32Array,
    '<i4': Int32Array, '<f4': Float32Array, '<f8': Float64Array,
};
const CHANNELS = [1, 3, 4];

export const isNpy = bytes => MAGIC.every((byte, index) => bytes[index] === byte);

/* {width, height, channels: 1|3|4, depth: 8|16, data}; refuse: called with the reason, it throws. */
export function decodeNpy(bytes, refuse) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), isFirst = bytes[6] === 1;
    const start = isFirst ? 10 : 12, length = isFirst ? view.getUint16(8, true) : view.getUint32(8, true);
    const header = String.fromCharCode(...bytes.subarray(start, start + Math.min(length, 4096)));
    const [, kind] = /'descr': *'([^']+)'/.exec(header) ?? [];
    const [, sides] = /'shape': *\(([\d, ]+)\)/.exec(header) ?? [];
    if (!sides) refuse('the header of the .npy file is damaged or of another version.');
    if (!KINDS[kind]) refuse(`values of type ${kind} are not read here; use little-endian integers of up to 32 bits, or floats.`);
    const shape = sides.split(',').filter(side => side.trim()).map(Number);
    const Values = KINDS[kind], content = bytes.slice(start + length);
    const count = shape.reduce((product, side) => product * side, 1), isFortran = /'fortran_order': *True/.test(header);
    if (!count || count * Values.BYTES_PER_ELEMENT !== content.length)
        refuse(`the .npy file is damaged: ${content.length} bytes are not what its header promises.`);
    const axes = axesOf(shape);
    if (!axes) refuse(`an array of shape (${shape.join(', ')}) is not a slice; expected [H, W], [H, W, 1|3|4] or [1|3|4, H, W].`);
    const values = new Values(content.buffer), isColour = Values === Uint8Array || Values === Uint16Array;
    const [height, width, channels] = axes.map(axis => axis === null ? 1 : shape[axis]);
    if (channels === 4 && !isColour) refuse('four channels are red, green, blue and opacity, which are of type uint8 or uint16.');
    if (kind.includes('f') && !values.every(value => Number.isFinite(Math.fround(value))))
        refuse('the image holds NaN or infinite values; every value must be finite (float32).');
    const strides = stridesOf(shape, isFortran), [down, across, apart] = axes.map(axis => axis === null ? 0 : strides[axis]);
    const data = new Values(count), scale = kind === '|b1' ? 255 : 1;
    for (let y = 0, at = 0; y < height; y++)
        for (let x = 0; x < width; x++)
            for (let channel = 0; channel < channels; channel++)
                data[at++] = scale * values[y * down + x * across + channel * apart];
    return {width, height, channels, depth: Values === Uint8Array ? 8 : 16, data};
}

/* Which axes are rows, columns and channels; null for channels that there are not. */
function axesOf(shape) {
    if (shape.length === 2) return [0, 1, null];
    if (shape.length !== 3) return null;
    if (CHANNELS.includes(shape[2])) return [0, 1, 2];
    return CHANNELS.includes(shape[0]) ? [1, 2, 0] : null;
}

function stridesOf(shape, isFortran) {
    const strides = [];
    let stride = 1;
    for (const axis of isFortran ? shape.keys() : [...shape.keys()].reverse()) {
        strides[axis] = stride;
        stride *= shape[axis];
    }
    return strides;
}
