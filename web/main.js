/* The page: what the visitor does ─ network.js, worker.js ─→ what it shows. Looks and tools are the Space's own, page.js. */

import {Network} from './network.js';
import {drawReport, escape} from './report.js';

const MEGABYTE = 1e6;
const find = selector => document.querySelector(selector);
const settings = await (await fetch('settings.json')).json();

let threads = 1, slice = null, cuts = 0, opened = 0, urls = [];

// --------------------------------------------------------------------------------------------------------- the network

let loaded = 0;
const network = new Network(bytes => {
    const bar = find('#report progress');
    loaded += bytes;
    if (bar) bar.value = loaded;
});

async function start() {
    const size = settings.bytes, detail = find('#loading');
    detail.innerHTML = `Getting the network, ${(size / MEGABYTE).toFixed(0)} MB, which this browser then keeps.
        <progress max="${size}" value="0" aria-label="Of the network, loaded"></progress>`;
    try {
        ({threads} = await network.ask('start', {given: settings}));
        if (detail.isConnected) detail.textContent = 'Its measurements will appear here.';
        document.body.dataset.ready = true;
        keepForOffline();
    } catch (error) {
        refuse(error.message);
    }
}

/* Only now, so that the first visit does not load everything twice at a time. */
async function keepForOffline() {
    // Without HTTPS, browsers allow it on their own computer alone.
    await navigator.serviceWorker?.register('service-worker.js', {updateViaCache: 'none'}).catch(error => console.warn(error));
}

// ------------------------------------------------------------------------------------------------------------ one slice

/* From a file of the visitor's, or from an example: {bytes, name, title, truth}. */
async function open(get) {
    const mine = ++opened;
    find('#report').setAttribute('aria-busy', true);
    try {
        const given = await get(), found = await network.ask('open', given);
        if (mine !== opened) return;
        slice = found;
        showSlice(slice);
        await recut();
    } catch (error) {
        if (mine === opened) refuse(error.message);
    } finally {
        if (mine === opened) find('#report').removeAttribute('aria-busy');
    }
}

function showSlice({title, width, height, anatomy, heatmap}) {
    urls.forEach(URL.revokeObjectURL);
    urls = [];
    find('#layers').replaceChildren();
    find('#anatomy').innerHTML = `
        <div class="slice" style="--width: ${width}; --height: ${height}">
            <img src="${urlOf(anatomy)}" alt="MRI slice: ${escape(title)}"><img class="tumor heatmap" src="${urlOf(heatmap)}" alt="">
        </div>
        <p class="caption"><span>${escape(title)}</span><span>${width} × ${height} px</span></p>`;
}

function showLayers({fill, contour}) {
    const {width, height, truth} = slice, shapes = {'tumor fill': fill, 'tumor contour': contour};
    if (truth) shapes.truth = truth;
    const layers = Object.entries(shapes).map(([name, shape]) => `<div class="${name}" style="mask-image: url(${urlOf(shape)})"></div>`);
    find('#layers').innerHTML = `<div class="slice" style="--width: ${width}; --height: ${height}">${layers.join('')}</div>`;
}

function urlOf(blob) {
    const url = URL.createObjectURL(blob);
    urls.push(url);
    return url;
}

/* Measures anew; of settings that change faster than that, the last ones count. */
async function recut() {
    const mine = ++cuts, of = slice, cut = currentCut();
    if (!of) return;
    try {
        const measured = await network.ask('measure', {cut});
        if (mine !== cuts || of !== slice) return;
        showLayers(measured);
        find('#report').innerHTML = drawReport(slice, measured, cut, settings, threads);
        find('#report').classList.remove('refused');
        setSaving(true);
    } catch (error) {
        if (of === slice) refuse(error.message);
    }
}

function refuse(sentence) {
    slice = null;
    find('#anatomy').innerHTML = '<p class="invitation">Drop an MRI slice, or choose an example.</p>';
    find('#layers').replaceChildren();
    find('#report').innerHTML = `<p class="verdict">No slice</p><p class="detail" role="alert">${escape(sentence)}</p>`;
    find('#report').classList.add('refused');
    setSaving(false);
}

// ------------------------------------------------------------------------------------------------------------- controls

const chosen = name => find(`#${name} input:checked`).value;
const currentCut = () => ({threshold: number('threshold'), minArea: number('min-area'), spacing: spacing()});
const number = id => Number(find(`#${id} input[type=range]`).value);
const colorOf = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));

function spacing() {
    const value = Number(find('#spacing input').value), {min_spacing: least, max_spacing: most} = settings.limits;
    const allowed = value === 0 || (value >= least && value <= most);
    find('#spacing input').setCustomValidity(allowed ? '' : `A pixel may have ${least} to ${most} mm, or 0 where that is not known.`);
    find('#spacing input').reportValidity();
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
    const {name, blob} = await network.ask('save', {kind, cut: currentCut(), look});
    const url = URL.createObjectURL(blob);
    page.save({url, orig_name: name});
    URL.revokeObjectURL(url);
}

/* Where the Space has Gradio's slider: one picture over the other. */
async function compare() {
    const [pair] = await page.beforeAndAfter();
    if (!pair) return find('#both').replaceChildren();
    const split = find('#both input')?.value ?? 50;
    find('#both').innerHTML = `<figure><img src="${pair[0].url}" alt="Without the overlay"><img src="${pair[1].url}" alt="With the overlay">
        <input type="range" min="0" max="100" value="${split}" aria-label="Where the overlay begins, in percent"></figure>`;
    const figure = find('#both figure'), move = () => figure.style.setProperty('--split', `${find('#both input').value}%`);
    find('#both input').addEventListener('input', move);
    move();
}

// ------------------------------------------------------------------------------------------------------------- examples

function startExamples() {
    const {examples} = settings, groups = Object.groupBy(examples.map((name, index) => ({name, index})), ({name}) => typeOf(name));
    const button = ({name, index}) => `<button type="button" data-index="${index}" aria-pressed="false" title="${describe(name)}"
        aria-label="${describe(name)}"><img src="examples/images/${name}.png" alt=""></button>`;
    const group = ([type, members]) => `<div><p>${capital(type)}</p>${members.map(button).join('')}</div>`;
    find('#examples').innerHTML = `<div class="strip">${Object.entries(groups).map(group).join('')}</div>`;
    page.startChoices(find('#examples'), (_, {index}) => open(() => getExample(examples[index])));
}

const typeOf = name => name.split('-')[0];
const capital = text => text[0].toUpperCase() + text.slice(1);

/* What an example is called, such as "Glioma axial, slice 726". */
function describe(name) {
    const [type, plane, place] = name.split('-');
    return `${capital(type)} ${plane}, slice ${place}`;
}

async function getExample(name) {
    const get = async kind => (await fetch(`examples/${kind}/${name}.png`)).arrayBuffer();
    const [bytes, truth] = await Promise.all([get('images'), get('masks')]);
    return {bytes, truth, name, title: describe(name)};
}

const getFile = async file => ({bytes: await file.arrayBuffer(), name: file.name.replace(/\.[^.]*$/, ''), title: file.name});

function startFiles() {
    // Nothing is sent: what page.js calls uploading hands the file itself on.
    const hand = async file => ({path: file});
    page.startDropBox(find('#upload'), (_, {files}) => open(() => getFile(files[0].path)), hand);
}

// ---------------------------------------------------------------------------------------------------------------- start

const dark = matchMedia('(prefers-color-scheme: dark)'), follow = () => document.documentElement.classList.toggle('dark', dark.matches);
dark.addEventListener('change', follow);
follow();
startControls();
startExamples();
startFiles();
setSaving(false);
page.startTools(find('#tools'), compare);
for (const button of document.querySelectorAll('#saving button')) button.addEventListener('click', () => save(button.dataset.kind));
await start();
