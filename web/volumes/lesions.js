/* The pieces of a mask in three dimensions, how large they are and where they lie, as lesions.py of the package's volumes
   measures them. A mask is a Uint8Array of slices [N, H, W], one after another; a place is [slice, row, column]. */

import {convexHull} from '../lesions.js';

/* The pieces of a mask, of voxels that touch at a side, an edge or a corner: of each the places of its voxels in the mask. */
export function piecesOf(mask, [count, height, width]) {
    const seen = new Uint8Array(mask.length), pieces = [];
    for (let start = mask.indexOf(1); start >= 0; start = mask.indexOf(1, start + 1)) {
        if (seen[start]) continue;
        const piece = [start];
        seen[start] = 1;
        for (let index = 0; index < piece.length; index++) {
            const [slice, row, column] = placeOf(piece[index], height, width);
            for (let z = Math.max(slice - 1, 0); z <= Math.min(slice + 1, count - 1); z++)
                for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y++)
                    for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x++) {
                        const next = (z * height + y) * width + x;
                        if (!mask[next] || seen[next]) continue;
                        seen[next] = 1;
                        piece.push(next);
                    }
        }
        pieces.push(piece);
    }
    return pieces;
}

function placeOf(index, height, width) {
    const column = index % width, row = (index - column) / width % height;
    return [(index - column - width * row) / (width * height), row, column];
}

/* The pieces of a volume's mask that have at least so many voxels, largest first; spacing: of a voxel in mm [slice, row,
   column], affine: rows of a place → mm, or null. */
export function findLesions(mask, probability, shape, spacing, affine, minVoxels) {
    const [, height, width] = shape;
    return piecesOf(mask, shape).filter(piece => piece.length >= minVoxels).map(piece => {
        const sum = [0, 0, 0], bySlice = new Map();
        let total = 0;
        for (const index of piece) {
            const place = placeOf(index, height, width), [slice, row, column] = place;
            place.forEach((value, axis) => { sum[axis] += value; });
            total += probability[index];
            if (!bySlice.has(slice)) bySlice.set(slice, []);
            bySlice.get(slice).push([row, column], [row, column + 1], [row + 1, column], [row + 1, column + 1]);
        }
        const centre = sum.map(value => value / piece.length), numbers = [...bySlice.keys()];
        // A voxel reaches from its place to the next one along every axis.
        const twice = slice => ([row, column]) => [[slice, row, column], [slice + 1, row, column]];
        const corners = numbers.flatMap(slice => convexHull(unique(bySlice.get(slice))).flatMap(twice(slice)));
        return {
            voxels: piece.length, volume_ml: piece.length * spacing[0] * spacing[1] * spacing[2] / 1000,
            slices: [Math.min(...numbers), Math.max(...numbers)], centre,
            centre_mm: affine && affine.map(row => row[0] * centre[0] + row[1] * centre[1] + row[2] * centre[2] + row[3]),
            longest_diameter_mm: longest(corners.map(corner => corner.map((value, axis) => value * spacing[axis]))),
            mean_probability: total / piece.length,
        };
    }).sort((one, other) => other.voxels - one.voxels);
}

const unique = points => [...new Map(points.map(point => [point.join(' '), point])).values()];

function longest(points) {
    let most = 0;
    points.forEach(([z, y, x], index) => {
        for (let other = index + 1; other < points.length; other++)
            most = Math.max(most, (z - points[other][0]) ** 2 + (y - points[other][1]) ** 2 + (x - points[other][2]) ** 2);
    });
    return Math.sqrt(most);
}
