/* The page: what the visitor does ─ network.js, worker.js ─→ what it shows. Stage and tools are the Space's own, scripts/. */

import {Network} from './network.js';
import {drawOverview, drawReport, escape} from './report.js';
import {encodePng, packZip} from './scripts/packing.js';

const MEGABYTE = 1e6, KEPT_MS = 60_000; // the browser may still ask where to put a file
const {find, say} = page;
const NO_SLICE = find('#anatomy').innerHTML, SPACING_LABEL = find('#spacing label').textContent;
const NO_REPORT = '<h2 class="verdict">No slice yet</h2><p class="detail">Its measurements will appear here.</p>';
const settings = await (await fetch('settings.json')).json();

let threads = 1, slice = null, opened = 0, urls = []; // of pictures that another slice replaces

// --------------------------------------------------------------------------------------------------------- the network

let loaded = 0;
const network = new Network(({loaded: bytes, done, total}) => {
    if (total) return showProgress(done, total);
    const bar = find('#report progress');
    loaded += bytes;
    if (bar) bar.value = loaded;
});

async function start() {
    const size = settings.model.bytes + settings.runtime.bytes, detail = find('#loading');
    detail.innerHTML = `Getting the network, ${(size / MEGABYTE).toFixed(0)} MB, which this browser then keeps.
        <progress max="${size}" value="0" aria-label="Of the network, loaded"></progress>`;
    try {
        ({threads} = await network.ask('start', {given: settings}));
    } catch (error) {
        detail.textContent = error.message;
        return;
    }
    detail.textContent = 'Its measurements will appear here.';
    document.body.dataset.ready = true;
    keepForOffline();
}

/* Only now, so that the first visit does not load everything twice at a time. */
async function keepForOffline() {
    // Without HTTPS, browsers allow it on their own computer alone.
    await navigator.serviceWorker?.register('service-worker.js', {updateViaCache: 'none'}).catch(error => console.warn(error));
}

// ------------------------------------------------------------------------------------------------- one slice or volume

/* From a file of the visitor's, or from an example; `get` gives {bytes, name, title, truth, example}. */
async function open(get) {
    const mine = ++opened;
    find('#report').setAttribute('aria-busy', true);
    network.stop();
    try {
        const given = await get(), found = await network.ask('open', given);
        if (mine !== opened) return;
        const shown = {...found, shown: given.example ?? `file ${mine}`, token: `volume${mine}`, example: given.example};
        await show(found.volume ? {...shown, ...await network.ask('turn', {cut: currentCut()})} : shown);
    } catch (error) {
        if (mine === opened) await refuse(error);
    } finally {
        if (mine === opened) find('#report').removeAttribute('aria-busy');
    }
}

async function show(opened) {
    slice = opened;
    showSlice();
    showVolume(slice);
    await recut();
}

/* Of a volume, another slice; of those that change faster than that, the last one counts. */
let turned = 0;
async function turn(index) {
    const mine = ++turned, of = slice;
    try {
        const found = await network.ask('turn', {index, cut: currentCut()});
        if (mine !== turned || of !== slice) return;
        slice = {...slice, ...found};
        showSlice();
        await recut();
    } catch (error) {
        if (of === slice) await refuse(error);
    }
}

function showProgress(done, total) {
    const report = find('#report');
    if (!report.querySelector('.stop'))
        report.innerHTML = `<h2 class="verdict">Looking at the volume</h2><p class="detail"></p>
            <progress aria-label="Slices looked at"></progress><button type="button" class="stop">Stop</button>`;
    report.querySelector('.detail').textContent = `Slice ${done + 1} of ${total}: all of them in this browser`;
    Object.assign(report.querySelector('progress'), {value: done, max: total});
}

function showSlice() {
    const {title, name: file, width, height, shown, example, anatomy, heatmap, volume, token, index = 0} = slice;
    urls.forEach(URL.revokeObjectURL);
    urls = [];
    find('#layers').replaceChildren();
    const name = escape(volume ? capital(`${volume.plane.replace('unknown', '')} slice ${index + 1} of ${volume.count}`.trim()) : title);
    const of = volume ? ` data-volume="${token}" data-places="${volume.inMm ? 'mm' : 'voxels'}"` : '';
    find('#anatomy').innerHTML = `
        <div class="slice" style="--width: ${width}; --height: ${height}" data-shown="${shown}" data-index="${index}"
        data-count="${volume?.count ?? 1}" data-study="${token}" data-name="${escape(file)}"${of}>
            <img src="${urlOf(anatomy)}" alt="MRI slice: ${name}"><img class="tumor heatmap" src="${urlOf(heatmap)}" alt="">
            ${[...volume?.sides ?? ''].map(side => `<b>${side}</b>`).join('')}
        </div>
        <p class="caption"><span>${name}</span><span>${width} × ${height} px</span>
        ${example ? '<button type="button" class="link">Copy link</button>' : ''}
        <button type="button" class="clear">Clear</button></p>`;
    page.followVolume();
}

/* What a volume has and a slice does not: a slider for its slices, a mask to save, and the size of its pixels. */
function showVolume({volume, index} = {}) {
    find('#overview').replaceChildren();
    find('#scrubber').innerHTML = volume ? `
        <label data-testid="block-info" for="scrubber-range">Slice</label>
        <input type="number" min="1" max="${volume.count}" step="1" aria-label="Slice, as a number">
        <input type="range" min="1" max="${volume.count}" step="1" id="scrubber-range">` : '';
    if (volume) startSlider('scrubber', index + 1, value => turn(Number(value) - 1));
    find('#saving [data-kind=volume]').hidden = !volume;
    find('#spacing input').disabled = Boolean(volume);
    const sides = volume?.spacing.map(side => Number(side.toPrecision(3))).reverse();
    find('#spacing label').textContent = volume ? `Pixel size: ${sides.join(' × ')} mm (file)` : SPACING_LABEL;
}

function showLayers({fill, contour, spacing, byHand}, {threshold, minArea}) {
    const {width, height, truth} = slice, shapes = {'tumor fill': fill, 'tumor contour': contour};
    if (truth) shapes.truth = truth;
    const layers = Object.entries(shapes).map(([name, shape]) => `<div class="${name}" style="mask-image: url(${urlOf(shape)})"></div>`);
    const known = spacing ? ` data-spacing="${spacing.join(' ')}"` : '';
    const marks = `${known}${byHand ? ' data-corrected' : ''}`;
    find('#layers').innerHTML = `<div class="slice" style="--width: ${width}; --height: ${height}"
        data-cut="${threshold}_${minArea}"${marks}>${layers.join('')}</div>`;
    page.whenMeasured();
    page.followVolume();
}

function urlOf(blob) {
    const url = URL.createObjectURL(blob);
    urls.push(url);
    return url;
}

/* Measures anew; of settings that change faster than that, the last ones count. */
let cutting = null, isStale = false;
function recut() {
    isStale = true;
    return cutting ??= (async () => {
        while (isStale) {
            isStale = false;
            await cutOnce();
        }
        cutting = null;
    })();
}

async function cutOnce() {
    const of = slice, cut = currentCut();
    if (!of) return;
    try {
        const measured = await network.ask('measure', {cut});
        if (of !== slice) return;
        showLayers(measured, cut);
        find('#overview').innerHTML = measured.whole ? drawOverview(measured.whole) : '';
        find('#report').innerHTML = drawReport(slice, measured, settings, threads);
        page.announce(find('#report'));
        setSaving(true);
    } catch (error) {
        if (of === slice) refuse(error);
    }
}

/* What the page shows stays. */
async function refuse(error) {
    say(error.message);
    page.showChosen();
    if (!find('#report .stop')) return;
    find('#report').innerHTML = NO_REPORT;
    await recut();
}

async function clear() {
    opened++;
    slice = null;
    network.stop();
    find('#anatomy').innerHTML = NO_SLICE;
    find('#layers').replaceChildren();
    showVolume();
    find('#report').innerHTML = NO_REPORT;
    setSaving(false);
    page.followVolume();
    await network.ask('forget');
}

/* What was painted by hand is measured. */
async function correct({study, slices}) {
    if (study !== slice?.token) return;
    // The brush takes the picture again for the pair that it saves.
    urls = urls.filter(url => url !== find('#anatomy img').src);
    await network.ask('correct', {slices});
    await recut();
}

/* What the viewer of volumes asks a server for. */
async function sendVolume({scan: withScan}) {
    if (!slice?.volume) return;
    const {token} = slice, cut = currentCut();
    try {
        const {scan, mask} = await network.ask('view', {cut, withScan}), files = {[`mask_${token}_`]: mask};
        if (scan) files[`scan_${token}`] = scan;
        const sent = Object.entries(files).map(([name, blob]) => ({orig_name: name, url: URL.createObjectURL(blob)}));
        page.drawVolume(sent);
        setTimeout(() => sent.forEach(({url}) => URL.revokeObjectURL(url)), KEPT_MS);
    } catch (error) {
        say(error.message);
    }
}

// ------------------------------------------------------------------------------------------------------------- controls

const chosen = name => find(`#${name} input:checked`).value;
const currentCut = () => ({threshold: number('threshold'), minArea: number('min-area'), spacing: spacing()});
const number = id => Number(find(`#${id} input[type=range]`).value);
const colorOf = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));

function spacing() {
    const box = find('#spacing input'), value = Number(box.value), {min_spacing: least, max_spacing: most} = settings.limits;
    const allowed = value === 0 || (value >= least && value <= most);
    box.setCustomValidity(allowed ? '' : `A pixel may have ${least} to ${most} mm, or 0 where that is not known.`);
    box.reportValidity();
    return allowed ? value : 0;
}

/* A slider and its box for the number hold one value. */
function startSlider(id, value, changed) {
    const range = find(`#${id} input[type=range]`), box = find(`#${id} input[type=number]`);
    const set = (one, other) => () => {
        if (one.value === '' || !one.checkValidity()) return;
        other.value = one.value;
        changed(range.value);
    };
    range.value = box.value = value;
    range.addEventListener('input', set(range, box));
    box.addEventListener('input', set(box, range));
}

function startControls() {
    startSlider('opacity', settings.alpha, page.setOpacity);
    startSlider('threshold', settings.threshold, recut);
    startSlider('min-area', 0, recut);
    find('#spacing input').addEventListener('input', recut);
    find('#truth input').addEventListener('change', event => page.setTruth(event.target.checked));
    for (const input of document.querySelectorAll('#style input')) input.addEventListener('change', () => page.setStyle(input.value));
    for (const input of document.querySelectorAll('#color input')) {
        input.style.setProperty('--swatch', input.value);
        input.addEventListener('change', () => page.setColor(input.value));
    }
    page.setOpacity(settings.alpha);
    page.setColor(chosen('color'));
    const ramp = settings.colormap.map((color, level) => `rgb(${color.map(value => Math.round(value * level / 255))})`);
    find('#tools .bar i').style.backgroundImage = `linear-gradient(to right, ${ramp.filter((_, level) => level % 15 === 0)})`;
}

function setSaving(enabled) {
    for (const button of document.querySelectorAll('#saving button')) button.disabled = !enabled;
}

async function save(kind) {
    const look = {style: chosen('style'), color: colorOf(chosen('color')), opacity: number('opacity')};
    try {
        const {name, blob} = await network.ask('save', {kind, cut: currentCut(), look}), url = URL.createObjectURL(blob);
        page.save({url, orig_name: name});
        setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
    } catch (error) {
        say(error.message);
    }
}

// ------------------------------------------------------------------------------------------------- examples and files

const typeOf = name => name.split('-')[0];
const capital = text => text[0].toUpperCase() + text.slice(1);

/* What an example is called, such as "Glioma axial, slice 726". */
function describe(name) {
    const [type, plane, place] = name.split('-');
    return `${capital(type)} ${plane}, slice ${place}`;
}

function startExamples() {
    const {examples} = settings, types = [...new Set(examples.map(typeOf))];
    const button = name => `<button type="button" data-index="${examples.indexOf(name)}" data-name="${name}" aria-pressed="false"
        title="${describe(name)}" aria-label="${describe(name)}"><img src="examples/images/${name}.png" alt=""></button>`;
    const group = type => `<div><p>${capital(type)}</p>${examples.filter(name => typeOf(name) === type).map(button).join('')}</div>`;
    find('#examples').innerHTML = `<div class="strip">${types.map(group).join('')}</div>`;
    page.startExamples(find('#examples'), (_, {index}) => openExample(examples[index]));
}

function openExample(example) {
    say(null);
    const get = async kind => (await fetch(`examples/${kind}/${example}.png`)).arrayBuffer();
    return open(async () => {
        const [bytes, truth] = await Promise.all([get('images'), get('masks')]);
        return {bytes, truth, example, name: example, title: describe(example)};
    });
}

async function openFiles(files) {
    const given = files.map(({path}) => path), series = await filter(given, isDicom), [file] = series.length ? series : given;
    const others = series.slice(1), left = given.length - others.length - 1;
    say(left ? `This page takes one slice or volume at a time: it opens ${series.length ? 'the DICOM series' : file.name}.` : null);
    return open(async () => ({
        bytes: await file.arrayBuffer(), others: await Promise.all(others.map(other => other.arrayBuffer())),
        // Names of DICOM files often name persons.
        ...series.length ? {name: 'volume', title: 'DICOM'} : {name: file.name.replace(/(\.nii)?\.[^.]*$/i, ''), title: file.name},
    }));
}

const isDicom = async file => await file.slice(128, 132).text() === 'DICM';
const filter = async (files, is) => {
    const found = await Promise.all(files.map(is));
    return files.filter((_, index) => found[index]);
};

// ---------------------------------------------------------------------------------------------------------------- start

const dark = matchMedia('(prefers-color-scheme: dark)'), follow = () => document.documentElement.classList.toggle('dark', dark.matches);
dark.addEventListener('change', follow);
follow();
startControls();
setSaving(false);
/* What the scripts of the Space ask of Gradio: to be told when a part of the page has changed. */
const watch = (_, changed) => new MutationObserver(changed).observe(find('#anatomy'), {childList: true});
page.startStage(find('#anatomy'), clear, watch);
page.startGlass(find('#glass'));
window.gradio_config = {root: new URL('.', location).href.replace(/\/$/, '')}; // where the Space's scripts look for the viewer
page.startViews(find('#views'));
page.startVolume(find('#volume'), (_, asked) => sendVolume(asked));
find('#report').addEventListener('click', event => { if (event.target.matches('.stop')) network.stop(); });
find('#overview').addEventListener('click', event => {
    const place = event.target.closest('[data-row]');
    if (place) page.setSlider('#scrubber', Number(place.dataset.index) + 1);
});
Object.assign(window, {encodePng, packZip}); // what the brush works with: in the Space, both are one module
await import('./scripts/brush.js');
page.startBrush(find('#paint'), (_, told) => correct(told));
page.startLook(find('#tools'));
page.startTools(find('#tools'));
// Nothing is uploaded: the file itself is handed on.
page.startFiles(find('#upload'), (_, {files}) => openFiles(files), async file => ({path: file}));
for (const button of document.querySelectorAll('#saving button')) button.addEventListener('click', () => save(button.dataset.kind));
await start();
startExamples();
// On arrival a result is there.
if (!opened) find('#examples button').click();
