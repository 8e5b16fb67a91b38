/* One frame for all slices of a plane, of one size in mm, as planes.py of the package has it: a head must not grow from slice
   to slice. A frame is {top, left, height, width, side}, in pixels of the slices but for the side of the square that the network
   is shown. rules: the constants of planes.py, in settings.json. */

import {cropped, planeOf, roundToEven, shrunk, stretched} from '../raster.js';

/* head: the grid of `findHead`, turned to the plane; sizes: of a voxel in mm along its slices, or null. */
export function frameOf(head, shape, sizes, {FRAME_MM, USUAL_SHARE, SMALLEST_SHARE, MAX_SIDE, MARGIN}) {
    const boxes = shape.map((length, axis) => extentOf(head, axis, length)), [across, row, column] = sizes ?? [0, 1, 1];
    const longest = Math.max(...boxes.map(([start, end], axis) => (end - start) * [across, row, column][axis]));
    const side = sizes ? Math.min(FRAME_MM, longest / SMALLEST_SHARE) : longest / USUAL_SHARE;
    const [height, width] = [row, column].map(size => Math.max(roundToEven(side / size), 1));
    // Of a head that is longer, with its neck, the upper end counts.
    const [top, left] = [height, width].map((length, index) => {
        const [start, end] = boxes[index + 1];
        return end - start <= length ? roundToEven((start + end - length) / 2) : start - roundToEven(MARGIN * length);
    });
    return {top, left, height, width, side: Math.min(Math.max(height, width), MAX_SIDE)};
}

/* The first voxel along an axis that holds a head, and the one after the last, in a volume of that length. */
export function extentOf({data, shape, strides, offset}, axis, length) {
    const [one, other] = [0, 1, 2].filter(index => index !== axis), places = [];
    for (let place = 0; place < shape[axis]; place++) {
        let isThere = false;
        for (let i = 0; i < shape[one] && !isThere; i++)
            for (let j = 0; j < shape[other] && !isThere; j++)
                isThere = data[offset + place * strides[axis] + i * strides[one] + j * strides[other]] > 0;
        if (isThere) places.push(place);
    }
    const scale = length / shape[axis];
    return [Math.floor(places[0] * scale), Math.min(Math.ceil((places.at(-1) + 1) * scale), length)];
}

/* What a frame shows of a slice, black outside it: a square plane. */
export function cut(frame, plane) {
    const [rows, columns] = windowsOf(frame, plane);
    const [x, y, w, h] = [columns.first, rows.first, columns.end - columns.first, rows.end - rows.first];
    const part = resized(cropped(plane, x, y, w, h), columns.to - columns.from, rows.to - rows.from);
    return cropped(part, -columns.from, -rows.from, frame.side, frame.side);
}

/* The probability of what it showed, in a plane of a slice's size, 0 outside it. */
export function pasted(frame, probability, size) {
    const [rows, columns] = windowsOf(frame, size);
    const part = cropped(probability, columns.from, rows.from, columns.to - columns.from, rows.to - rows.from);
    const own = resized(part, columns.end - columns.first, rows.end - rows.first);
    return cropped(own, -columns.first, -rows.first, size.width, size.height);
}

/* Of rows and of columns: what it shows of a slice, first to end, and where that lies in the square, from and to. */
function windowsOf({top, left, height, width, side}, size) {
    return [[top, height, size.height], [left, width, size.width]].map(([start, long, whole]) => {
        const first = Math.max(start, 0), end = Math.min(start + long, whole), scale = side / long;
        return {first, end, from: roundToEven((first - start) * scale), to: roundToEven((end - start) * scale)};
    });
}

function resized(plane, width, height) {
    if (plane.width === width && plane.height === height) return plane;
    if (plane.width < width || plane.height < height) return stretched(plane, width, height);
    const {data} = shrunk(plane, width, height);
    return planeOf(width, height, data);
}
