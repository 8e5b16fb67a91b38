/* A volume that was opened: what the network said of it, its slices as the page shows them, and what is measured at a cut. */

import {percentile, planeOf, thinned} from '../raster.js';
import {cutMask} from '../lesions.js';
import {toDisplay} from '../layers.js';
import {findLesions} from './lesions.js';
import {isDicom, readDicom} from './dicom.js';
import {readNifti} from './nifti.js';
import {segmentVolume} from './segmenting.js';
import {volumeOf} from './volume.js';

const SIDES = {axial: 'RL', coronal: 'RL', sagittal: 'AP'};
const VIEWED_PERCENTILE = 99.8;

export class Study {
    /* files: the bytes of a NIfTI file, or of each file of a DICOM series; look, told: as in `segmentVolume`. Throws
       UnusableError. */
    static async open(files, {name, title, look, told, settings}) {
        const limits = {...settings.limits, ...settings.volumes}, isSeries = isDicom(files[0]);
        const scan = isSeries ? readDicom(files, limits, limits) : await readNifti(files[0], title, settings.sentences, limits);
        const study = Object.assign(new Study(), {name, title, settings, byHand: new Map(), volume: volumeOf(scan, title, settings.limits)});
        study.whole = await segmentVolume(study.volume, look, told, settings.volumes);
        return study;
    }

    /* What is the same for all slices. */
    describe() {
        const {plane, affine, slices: {shape: [count, height, width]}} = this.volume, {familiarity, planes} = this.whole;
        const [sides, inMm, warnings] = [SIDES[plane] ?? '', affine !== null, this.warnings()];
        return {count, width, height, plane, planes, familiarity, sides, inMm, warnings, spacing: this.volume.spacing};
    }

    warnings() {
        const {sentences, unfamiliar} = this.settings, {familiarity, hasSkull, planes, filled} = this.whole;
        const isAlone = planes.length === 1 && this.volume.slices.shape[0] > 1;
        return [
            ...familiarity !== null && familiarity < unfamiliar ? [sentences.unlike_volume] : [],
            ...hasSkull ? [] : [sentences.stripped],
            ...isAlone ? [sentences.alone.replace('{plane}', planes[0])] : [],
            ...filled ? [sentences.filled.replace('{count}', filled)] : [],
            ...this.volume.warnings,
        ];
    }

    /* A slice as those of pictures are kept. */
    sliceAt(index) {
        const {slices: {data, shape: [, height, width]}, spacing} = this.volume;
        const size = width * height, part = values => values.subarray(index * size, (index + 1) * size);
        const display = toDisplay({width, height, channels: 1, depth: 32, data: part(data)});
        const name = `${this.name}-slice-${String(index + 1).padStart(3, '0')}`;
        const byHand = this.byHand.get(index);
        return {name, width, height, probability: part(this.whole.probability), byHand, display, spacing};
    }

    /* The mask at a cut, {threshold, minArea}: {mask, areas, found}; of each slice its area in px, and of how many a tumour is
       found in. */
    cut(settings) {
        const {shape: [count, height, width]} = this.volume.slices;
        const size = width * height;
        const mask = new Uint8Array(count * size);
        const areas = [];
        let found = 0;
        for (let index = 0; index < count; index++) {
            const probability = this.whole.probability.subarray(index * size, (index + 1) * size);
            const part = cutMask({width, height, probability, byHand: this.byHand.get(index)}, settings, this.settings.min_area_px);
            mask.set(part.mask, index * size);
            areas.push(part.mask.reduce((sum, value) => sum + value, 0));
            found += part.isLarge.includes(true) ? 1 : 0;
        }
        return {mask, areas, found};
    }

    /* Takes masks of slices that were corrected by hand: [index, mask], or null for the network's own again. */
    correct(masks) {
        for (const [index, mask] of masks) mask ? this.byHand.set(index, mask) : this.byHand.delete(index);
        this.kept = null;
    }

    /* `cut` and `measure` at the settings that were asked for last; other slices of the volume reuse them. */
    once(what, settings) {
        const key = `${settings.threshold} ${settings.minArea}`;
        if (this.kept?.key !== key) this.kept = {key};
        return this.kept[what] ??= this[what](settings);
    }

    /* {volume_ml, voxels, areas, found, lesions} */
    measure(settings) {
        const {mask, areas, found} = this.once('cut', settings), {volume} = this, {MIN_LESION_ML} = this.settings.volumes;
        const voxels = areas.reduce((sum, area) => sum + area, 0);
        const least = Math.max(Math.round(MIN_LESION_ML / volume.voxelMl), 1);
        const {slices: {shape}, sliceSpacing, spacing, affine} = volume;
        const lesions = findLesions(mask, this.whole.probability, shape, [sliceSpacing, ...spacing], affine, least);
        return {volume_ml: voxels * volume.voxelMl, voxels, areas, found, lesions};
    }

    /* The slice with the largest area; without a tumour, the middle one. */
    firstShown(settings) {
        const {areas} = this.once('cut', settings), most = Math.max(...areas);
        return most ? areas.indexOf(most) : areas.length >> 1;
    }

    /* The mask in the geometry of the file. */
    save(settings) {
        return this.volume.toNifti(this.once('cut', settings).mask);
    }

    /* What the viewer draws: the mask, and the scan by one window for all slices. */
    async view(settings, withScan) {
        const mask = await this.volume.viewed(this.once('cut', settings).mask);
        return {mask, scan: withScan ? await this.volume.viewed(this.inEightBits()) : null};
    }

    inEightBits() {
        const {data, shape: [count, height, width]} = this.volume.slices, size = width * height;
        const image = slice => planeOf(width, height, data.subarray(slice * size, (slice + 1) * size));
        const parts = Array.from({length: count}, (_, slice) => thinned(image(slice), 2).data);
        const some = new Float32Array(count * parts[0].length);
        parts.forEach((part, slice) => some.set(part, slice * part.length));
        const [low, high] = [0, VIEWED_PERCENTILE].map(percent => percentile(some, percent));
        const scale = high > low ? 255 / (high - low) : 0;
        return Uint8Array.from(data, value => Math.min(Math.max((value - low) * scale + 0.5, 0), 255));
    }
}
