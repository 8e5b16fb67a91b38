/* The brush: the mask of a slice or a volume corrected by hand, and what was corrected packed into pairs to train on.

   All that is painted stays in the browser until it is saved. After every stroke the server is told the masks, to measure
   them. Places are voxels [column, row, slice]; a mask is that of a slice, a Uint8Array of 0 and 1, row by row. In three
   planes (planes.js) a disc lies in the plane that is painted on, and so in several slices. */

const {find, isKey, isTyping} = page;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const STRIDE = 10; // of an arrow key with Shift
const MOST_RUNS = 100_000; // in a request
const slices = new Map(); // study and index → what is known of a slice that the brush was taken for
const volumes = new Map(); // study → {done, undone}: what was painted on a volume in three planes
const persons = new Map(); // study → what its person is called
let slice = null; // the one under the brush
let volume = null; // {study, planes}: the volume under it
let stroke = null; // {value, at, ground, entries, flips}: what is painted just now; flips: slice → its pixels
let isStale = false; // whether the planes show a mask of the network by other settings
let turns = 0, erases = false, size = 12, spot = [0, 0], isUnsaved = false, drawnIn, surface, ring, trigger;

// ---------------------------------------------------------------------------------------------------- the slice and its mask

const isCorrected = ({off}) => off > 0;
const corrected = () => [...slices.values()].filter(isCorrected);

/* What is remembered of a slice: the network's mask, the mask now, in how many pixels they differ, and strokes. */
const sheet = (known, own) => ({...known, own, cut: cut(), mask: own.slice(), off: 0, done: [], undone: []});
const cut = () => find('#layers .slice')?.dataset.cut; // the settings of the network's masks
const isSame = (one, other) => one.every((value, pixel) => value === other[pixel]);

/* Where strokes on what is under the brush are remembered. */
function history() {
    if (!volume) return slice;
    if (!volumes.has(volume.study)) volumes.set(volume.study, {done: [], undone: []});
    return volumes.get(volume.study);
}

/* A slice of the volume under the brush. */
function sliceOf({study, planes}, index) {
    const key = `${study} ${index}`, known = slices.get(key);
    if (known && isCorrected(known)) return known;
    const own = planes.maskOf(index);
    if (known && isSame(known.own, own)) return known;
    const shown = find('#anatomy .slice'), [width, height] = planes.grid().sides, data = planes.greysOf(index);
    const name = shown.dataset.name.replace(/\d+$/, String(index + 1).padStart(3, '0')); // as the server calls them
    const picture = () => encodePng({width, height, channels: 1, data});
    replaced(key, sheet({study, index, name, width, height, picture, spacing: spacing()}, own));
    return slices.get(key);
}

/* The network has another mask for a slice: strokes on the one before are not of it. */
function replaced(key, known) {
    if (slices.has(key)) volumes.delete(known.study);
    slices.set(key, known);
}

const spacing = () => find('#layers .slice').dataset.spacing?.split(' ') ?? ['', ''];

/* Take the brush to what is on the stage; its mask comes from the server, until it is painted on. */
async function follow() {
    if (!surface) return;
    const turn = ++turns, stage = find('#stage'), shown = find('#anatomy .slice'), layer = find('#layers .fill');
    const isOn = stage.dataset.tool === 'brush' && Boolean(shown && layer), planes = isOn ? page.shownPlanes() : null;
    if (planes !== (volume?.planes ?? null)) changeVolume(planes);
    if (volume && isStale) page.askMask();
    isStale = false;
    if (!isOn || stage.dataset.view === 'volume') {
        if (slice) cancel();
        surface.hidden = true;
        slice = null;
        stage.classList.remove('painting');
        return update();
    }
    const {study, index, name} = shown.dataset, key = `${study} ${index}`, known = slices.get(key);
    if (slice !== known) {
        cancel(); // nothing is painted on what is not there any more
        slice = null;
    }
    // What comes late may still be of a stroke that has been undone.
    const isOwn = !('corrected' in find('#layers .slice').dataset);
    if (!known || (isOwn && !isCorrected(known))) {
        const [width, height] = ['--width', '--height'].map(side => Number(shown.style.getPropertyValue(side)));
        const own = await read(layer, width, height);
        if (turn !== turns) return;
        if (!known || !isSame(known.own, own)) replaced(key, sheet({study, index: Number(index), name, width, height}, own));
    }
    const changes = slice !== slices.get(key), comes = surface.hidden;
    surface.hidden = false;
    slice = slices.get(key);
    const {src} = find('#anatomy .slice > img');
    Object.assign(slice, {picture: async () => (await fetch(src)).blob(), spacing: spacing()});
    nameStudy(study);
    if (changes) {
        surface.setAttribute('style', shown.getAttribute('style'));
        spot = [slice.width >> 1, slice.height >> 1, slice.index];
    }
    draw();
    stage.classList.add('painting');
    if (comes) surface.focus({preventScroll: true});
    update();
}

function nameStudy(study) {
    if (!persons.has(study)) persons.set(study, `study-${persons.size + 1}`);
    const input = find('#person');
    if (input.dataset.study !== study) input.value = persons.get(study);
    input.dataset.study = study;
}

function changeVolume(planes) {
    cancel();
    volume = planes && {study: find('#anatomy .slice').dataset.study, planes};
    ring.hidden = true;
    if (!planes) return;
    nameStudy(volume.study);
    if (!find('#views').contains(document.activeElement)) find('#volume canvas').focus({preventScroll: true});
}

/* The mask that a layer of the page is cut out by. */
async function read(layer, width, height) {
    const image = new Image(), canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d');
    image.src = layer.style.maskImage.slice(5, -2); // url("…")
    await image.decode();
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, width, height);
    return Uint8Array.from({length: width * height}, (_, pixel) => data[4 * pixel + 3] > 127 ? 1 : 0);
}

const colour = () => getComputedStyle(document.documentElement).getPropertyValue('--tumor-color').trim();
function draw() {
    const canvas = surface.querySelector('canvas'), {width, height, mask} = slice;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    const context = canvas.getContext('2d');
    context.clearRect(0, 0, width, height);
    context.fillStyle = drawnIn = colour();
    for (let row = 0; row < height; row++)
        for (let from = 0; from < width; from++) {
            if (!mask[row * width + from]) continue;
            let to = from;
            while (to < width && mask[row * width + to]) to++;
            context.fillRect(from, row, to - from, 1);
            from = to;
        }
}

function flip(part, pixels) {
    const {mask, own, width} = part;
    for (const pixel of pixels) {
        mask[pixel] ^= 1;
        part.off += mask[pixel] === own[pixel] ? -1 : 1;
    }
    page.planesOf(part.study)?.setMaskOf(part.index, mask);
    if (part !== slice) return;
    const context = surface.querySelector('canvas').getContext('2d');
    context.fillStyle = drawnIn;
    for (const pixel of pixels)
        context[mask[pixel] ? 'fillRect' : 'clearRect'](pixel % width, Math.floor(pixel / width), 1, 1);
}

/* Masks of the server have come into the planes, perhaps of before the last stroke. */
function correctPlanes(planes, study) {
    for (const part of corrected()) if (part.study === study) planes.setMaskOf(part.index, part.mask);
}

// --------------------------------------------------------------------------------------------------------------- strokes

/* Where a disc lies: sides of the volume, the axis across the disc, and sizes of a voxel in those of its smallest one. */
const inSlice = () => ({sides: [slice.width, slice.height], across: 2, steps: [1, 1, 1]});
const toPixel = ({x, y}) => [Math.floor(x * slice.width), Math.floor(y * slice.height), slice.index];

function begin(at, value, ground = inSlice()) {
    stroke = {value, at, ground, parts: new Map(), flips: new Map()};
    extend(at);
}

/* From where the stroke is to another place, voxel by voxel, with a disc at each. */
function extend(to) {
    const from = stroke.at, way = to.map((end, axis) => end - from[axis]);
    const steps = Math.max(...way.map(Math.abs), 1), dabs = new Map();
    for (let step = 0; step <= steps; step++)
        dab(from.map((start, axis) => Math.round(start + way[axis] * step / steps)), dabs);
    for (const [part, pixels] of dabs) {
        flip(part, pixels);
        if (!stroke.flips.has(part)) stroke.flips.set(part, []);
        for (const pixel of pixels) stroke.flips.get(part).push(pixel);
    }
    stroke.at = to;
}

/* Into `dabs`, slice → pixels, what a disc about a voxel changes. */
function dab(middle, dabs) {
    const {value, ground: {sides, across, steps}, parts} = stroke, reach = size / 2;
    const [a, b] = [0, 1, 2].filter(axis => axis !== across);
    const range = axis => {
        const away = reach / steps[axis], end = (sides[axis] ?? Infinity) - 1;
        return [Math.max(Math.ceil(middle[axis] - away), 0), Math.min(Math.floor(middle[axis] + away), end)];
    };
    const [[fromA, toA], [fromB, toB]] = [range(a), range(b)], place = [...middle];
    for (place[b] = fromB; place[b] <= toB; place[b]++)
        for (place[a] = fromA; place[a] <= toA; place[a]++) {
            if (((place[a] - middle[a]) * steps[a]) ** 2 + ((place[b] - middle[b]) * steps[b]) ** 2 > reach ** 2) continue;
            const [column, row, index] = place, pixel = row * sides[0] + column;
            if (!parts.has(index)) parts.set(index, volume ? sliceOf(volume, index) : slice);
            const part = parts.get(index);
            if (part.mask[pixel] === value) continue;
            if (!dabs.has(part)) dabs.set(part, new Set());
            dabs.get(part).add(pixel);
        }
}

function end() {
    if (!stroke) return;
    const {flips, value} = stroke;
    stroke = null;
    if (flips.size) done(flips, value ? 'Painted' : 'Erased');
}

function cancel() {
    for (const [part, pixels] of stroke?.flips ?? []) flip(part, pixels);
    stroke = null;
}

/* What was done can be undone; and it is measured. Strokes that lie under others are not undone from elsewhere. */
function done(flips, word) {
    const ours = history(), parts = [...flips.keys()];
    for (const other of volume ? parts : [volumes.get(slice.study) ?? {}]) Object.assign(other, {done: [], undone: []});
    ours.done.push([...flips].map(([part, pixels]) => [part, Uint32Array.from(pixels)]));
    ours.undone = [];
    const count = [...flips.values()].reduce((sum, pixels) => sum + pixels.length, 0);
    tell(parts, `${word} ${count} ${volume ? 'voxel' : 'pixel'}${count === 1 ? '' : 's'}.`);
}

function undo(from, to, words) {
    const ours = history();
    if (!ours?.[from].length || stroke) return;
    const flips = ours[from].pop();
    for (const [part, pixels] of flips) flip(part, pixels);
    ours[to].push(flips);
    tell(flips.map(([part]) => part), words);
}

/* The slices under the brush that are corrected. */
const correctedHere = () => corrected().filter(part => volume ? part.study === volume.study : part === slice);

function uncorrect() {
    const flips = new Map();
    for (const part of correctedHere()) {
        flips.set(part, [...part.mask.keys()].filter(pixel => part.mask[pixel] !== part.own[pixel]));
        flip(part, flips.get(part));
    }
    done(flips, 'The network’s mask is back in');
}

/* Let the server measure the masks. */
function tell(parts, words) {
    const told = parts.map(part => ({index: part.index, runs: isCorrected(part) ? runsOf(part.mask) : null}));
    while (told.length) {
        const some = [];
        for (let runs = 0; told.length && runs < MOST_RUNS; runs += some.at(-1).runs?.length ?? 0) some.push(told.pop());
        trigger('submit', {study: parts[0].study, slices: some, ...page.mark()});
    }
    isUnsaved = true;
    isStale = parts.some(part => !isCorrected(part) && part.cut !== cut());
    find('#said').textContent = words;
    update();
}

/* The lengths of runs of 0 and 1 in turn, 0 first. */
function runsOf(mask) {
    const runs = [];
    for (let start = 0, value = 0; start < mask.length; value ^= 1) {
        const next = mask.indexOf(value ^ 1, start), stop = next < 0 ? mask.length : next;
        runs.push(stop - start);
        start = stop;
    }
    return runs;
}

// ------------------------------------------------------------------------------------------------------- pairs to train on

/* images/, masks/ and metadata.csv, as `python -m train check` takes them; the network's own masks lie beside. */
async function savePairs() {
    const files = {}, rows = [['image_file_name', 'mask_file_name', 'person_id', 'row_mm', 'column_mm']], taken = new Set();
    for (const pair of corrected()) {
        let name = clean(pair.name) || 'slice';
        for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${clean(pair.name) || 'slice'}-${number}`;
        taken.add(name.toLowerCase());
        const asPng = async mask => {
            const {width, height} = pair, data = mask.map(value => 255 * value);
            return new Uint8Array(await (await encodePng({width, height, channels: 1, data})).arrayBuffer());
        };
        files[`images/${name}.png`] = new Uint8Array(await (await pair.picture()).arrayBuffer());
        files[`masks/${name}.png`] = await asPng(pair.mask);
        files[`network/${name}.png`] = await asPng(pair.own);
        rows.push([`images/${name}.png`, `masks/${name}.png`, clean(persons.get(pair.study)) || 'unknown', ...pair.spacing]);
    }
    files['metadata.csv'] = new TextEncoder().encode(rows.map(row => `${row.join(',')}\n`).join(''));
    const url = URL.createObjectURL(packZip(files));
    page.save({url, orig_name: 'corrections.zip'});
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    isUnsaved = false;
}

/* A name that is one for files, for tables and for spreadsheets. */
const clean = name => name.replace(/[^\p{L}\p{N}._-]+/gu, '-').replace(/^[^\p{L}\p{N}]+/u, '').slice(0, 100);

// ------------------------------------------------------------------------------------------------------------ the controls

function update() {
    const count = corrected().length, ours = history(), uncorrect = find('#uncorrect');
    find('#undo').disabled = !ours?.done.length;
    find('#redo').disabled = !ours?.undone.length;
    uncorrect.disabled = !ours || !correctedHere().length;
    uncorrect.title = `Take all corrections of the ${volume ? 'volume' : 'slice'} back`;
    find('#save-pairs').disabled = !count;
    find('#save-pairs').textContent = count === 1 ? 'Save 1 training pair' : `Save ${count || ''} training pairs`.replace('  ', ' ');
    for (const [id, isPressed] of [['#paints', !erases], ['#erases', erases]]) find(id).setAttribute('aria-pressed', isPressed);
    moveRing(spot);
}

function moveRing(to) {
    spot = to;
    if (!slice) return;
    const {width, height} = slice, shares = {'--spot-x': (spot[0] + 0.5) / width, '--spot-y': (spot[1] + 0.5) / height};
    for (const [name, share] of Object.entries({...shares, '--wide': size / width}))
        surface.style.setProperty(name, `${100 * share}%`);
}

function setSize(pixels) {
    const input = find('#brush-size');
    input.value = pixels;
    size = Number(input.value);
    input.nextElementSibling.textContent = `${size} px`;
    moveRing(spot);
}

function setErasing(value) {
    erases = value;
    update();
}

/* Keys on what is under the brush, for whoever uses no mouse; in planes, the arrows move the crosshair anyway. */
function onKey(event) {
    const arrow = ARROWS[event.key];
    if (!history() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && slice) {
        const stride = event.shiftKey ? STRIDE : 1, moved = axis => spot[axis] + stride * arrow[axis];
        const inside = (axis, side) => Math.min(Math.max(moved(axis), 0), side - 1);
        moveRing([inside(0, slice.width), inside(1, slice.height), slice.index]);
        if (stroke) extend(spot);
    } else if (event.key === ' ' || isKey(event, 'e')) {
        if (!event.repeat && !stroke) beginByKeys(event.key === ' ' ? 1 : 0);
    } else if (event.key === '[' || event.key === ']') setSize(size + (event.key === ']' ? 1 : -1));
    else return;
    event.preventDefault();
    event.stopPropagation();
}

/* In planes, at the crosshair and in the plane in which slices were taken. */
function beginByKeys(value) {
    if (volume) begin(volume.planes.position().voxel, value, {...volume.planes.grid(), across: 2});
    else begin(spot, value);
    stroke.isByKeys = true;
}

/* A drag over three planes begins at a spot (planes.js), and stays in its plane. */
function paintIn(spot) {
    if (!volume || !spot) return null;
    begin(spot.voxel, erases ? 0 : 1, {...volume.planes.grid(), across: spot.across});
    const move = next => { if (stroke && next?.tile === spot.tile) extend(next.voxel); };
    return Object.assign(move, {end, cancel});
}

/* The crosshair has moved, which keys do. */
function crosshairMoved(voxel) {
    if (volume && stroke?.isByKeys) extend(voxel);
}

/* The ring of the brush over three planes: at a place of the canvas in px, as wide as a disc is there. */
function ringAt(spot, {x, y}) {
    ring.hidden = !volume || !spot;
    if (ring.hidden) return;
    const wide = size * spot.pixel;
    for (const [name, value] of Object.entries({left: x, top: y, width: wide})) ring.style[name] = `${value}px`;
}

function startBrush(element, told) {
    trigger = told;
    surface = element.querySelector('.slice');
    ring = find('#volume .ring');
    page.drags.brush = place => {
        if (slice) begin(toPixel(place), erases ? 0 : 1);
        return {move: next => { if (stroke) extend(toPixel(next)); }, end, cancel};
    };
    for (const place of [surface, find('#volume')]) {
        place.addEventListener('keydown', onKey);
        place.addEventListener('keyup', event => { if (event.key === ' ' || isKey(event, 'e')) end(); });
        place.addEventListener('focusout', end);
    }
    // By itself, a click would take the keys away from it.
    find('#stage').addEventListener('mousedown', event => {
        if (!slice || !event.target.closest('#anatomy .slice')) return;
        event.preventDefault();
        surface.focus({preventScroll: true});
    });

    const stage = find('#stage'), mark = surface.querySelector('.ring');
    stage.addEventListener('pointermove', event => {
        if (slice && find('#anatomy .slice')) moveRing(toPixel(page.placeOf(event)));
        mark.classList.toggle('away', !event.target.closest('#anatomy'));
    });
    stage.addEventListener('pointerleave', () => mark.classList.add('away'));
    document.addEventListener('keydown', event => {
        const button = find('#tools [data-tool=brush]');
        if (isKey(event, 'b') && find('#anatomy .slice')) button.click();
        if (isKey(event, 'escape') && history()) {
            button.click();
            button.focus();
        }
        if (!history() || isTyping(event) || !(event.ctrlKey || event.metaKey)) return;
        const key = event.key.toLowerCase(), redoes = key === 'y' || (key === 'z' && event.shiftKey);
        if (key !== 'z' && key !== 'y') return;
        event.preventDefault();
        if (redoes) redo();
        else takeBack();
    });
    window.addEventListener('beforeunload', event => { if (isUnsaved && corrected().length) event.preventDefault(); });

    // The buttons come with the tools; the slice and its layers come and go.
    new MutationObserver(changes => {
        startButtons();
        if (changes.some(({target}) => target.closest('#anatomy, #layers'))) follow();
    }).observe(stage, {childList: true, subtree: true});
    new MutationObserver(follow).observe(stage, {attributes: true, attributeFilter: ['data-tool', 'data-view', 'data-solid']});
    new MutationObserver(() => { if (slice && drawnIn !== colour()) draw(); })
        .observe(document.documentElement, {attributes: true, attributeFilter: ['style']});
    startButtons();
}

const takeBack = () => undo('done', 'undone', 'Undone.'), redo = () => undo('undone', 'done', 'Done again.');

function startButtons() {
    const controls = find('#brush');
    if (!controls || controls.dataset.started) return;
    controls.dataset.started = true;
    const clicks = {paints: () => setErasing(false), erases: () => setErasing(true), undo: takeBack, redo, uncorrect, 'save-pairs': savePairs};
    for (const [id, action] of Object.entries(clicks)) find(`#${id}`).addEventListener('click', action);
    find('#brush-size').addEventListener('input', event => setSize(event.target.value));
    find('#person').addEventListener('input', event => { persons.set(event.target.dataset.study, event.target.value); });
}

Object.assign(page, {startBrush, followBrush: follow, correctPlanes, paintIn, crosshairMoved, ringAt});
