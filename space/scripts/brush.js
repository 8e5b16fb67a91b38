/* The brush: the mask of a slice corrected by hand, and what was corrected packed into pairs to train on.

   All that is painted stays in the browser until it is saved. After every stroke the server is told the mask, to measure it.
   Places are pixels [column, row]; a mask is a Uint8Array of 0 and 1, row by row. */

const {find, isKey, isTyping} = page;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const STRIDE = 10; // of an arrow key with Shift
const slices = new Map(); // study and index → what is known of a slice that the brush was taken for
const persons = new Map(); // study → what its person is called
let slice = null; // the one under the brush
let stroke = null; // {value, flips, at}: what is painted just now
let turns = 0, erases = false, size = 12, spot = [0, 0], isUnsaved = false, drawnIn, surface, trigger;

// ---------------------------------------------------------------------------------------------------- the slice and its mask

const isCorrected = ({mask, own}) => mask.some((value, pixel) => value !== own[pixel]);
const corrected = () => [...slices.values()].filter(isCorrected);

/* Take the brush to what is on the stage; its mask comes from the server, until it is painted on. */
async function follow() {
    const turn = ++turns, stage = find('#stage'), shown = find('#anatomy .slice'), layer = find('#layers .fill');
    const isOn = stage.dataset.tool === 'brush' && Boolean(shown && layer);
    if (!isOn) {
        surface.hidden = true;
        slice = null;
        stage.classList.remove('painting');
        return update();
    }
    const {study, index, name} = shown.dataset, key = `${study} ${index}`, known = slices.get(key);
    if (slice !== known) slice = null; // nothing is painted on what is not there any more
    // What comes late may still be of a stroke that has been undone.
    const isOwn = !('corrected' in find('#layers .slice').dataset);
    if (!known || (isOwn && !isCorrected(known))) {
        const [width, height] = ['--width', '--height'].map(side => Number(shown.style.getPropertyValue(side)));
        const own = await read(layer, width, height);
        if (turn !== turns) return;
        const isSame = known && known.own.every((value, pixel) => value === own[pixel]);
        if (!isSame) slices.set(key, {study, index: Number(index), name, width, height, own, mask: own.slice(), done: [], undone: []});
    }
    const changes = slice !== slices.get(key), comes = surface.hidden;
    surface.hidden = false;
    slice = slices.get(key);
    slice.picture = find('#anatomy .slice > img').src;
    slice.spacing = find('#layers .slice').dataset.spacing?.split(' ') ?? ['', ''];
    if (!persons.has(study)) persons.set(study, `study-${persons.size + 1}`);
    if (changes) {
        stroke = null;
        surface.setAttribute('style', shown.getAttribute('style'));
        spot = [slice.width >> 1, slice.height >> 1];
        find('#person').value = persons.get(study);
    }
    draw();
    stage.classList.add('painting');
    if (comes) surface.focus({preventScroll: true});
    update();
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

function flip(pixels) {
    const context = surface.querySelector('canvas').getContext('2d'), {width, mask} = slice;
    context.fillStyle = drawnIn;
    for (const pixel of pixels) {
        mask[pixel] ^= 1;
        context[mask[pixel] ? 'fillRect' : 'clearRect'](pixel % width, Math.floor(pixel / width), 1, 1);
    }
}

// --------------------------------------------------------------------------------------------------------------- strokes

const toPixel = ({x, y}) => [Math.floor(x * slice.width), Math.floor(y * slice.height)];

function begin(at, value) {
    stroke = {value, flips: [], at};
    extend(at);
}

/* From where the stroke is to another place, pixel by pixel, with a disc at each. */
function extend(to) {
    const [column, row] = stroke.at, steps = Math.max(Math.abs(to[0] - column), Math.abs(to[1] - row), 1);
    for (let step = 0; step <= steps; step++)
        dab(Math.round(column + (to[0] - column) * step / steps), Math.round(row + (to[1] - row) * step / steps));
    stroke.at = to;
}

function dab(column, row) {
    const {width, height, mask} = slice, reach = size / 2, pixels = [];
    for (let y = Math.max(Math.ceil(row - reach), 0); y <= Math.min(row + reach, height - 1); y++)
        for (let x = Math.max(Math.ceil(column - reach), 0); x <= Math.min(column + reach, width - 1); x++) {
            const pixel = y * width + x;
            if ((x - column) ** 2 + (y - row) ** 2 <= reach ** 2 && mask[pixel] !== stroke.value) pixels.push(pixel);
        }
    flip(pixels);
    for (const pixel of pixels) stroke.flips.push(pixel);
}

function end() {
    if (!stroke) return;
    const {flips, value} = stroke;
    stroke = null;
    if (flips.length) done(flips, `${value ? 'Painted' : 'Erased'} ${flips.length} pixels.`);
}

function cancel() {
    if (stroke) flip(stroke.flips);
    stroke = null;
}

/* What was done can be undone; and it is measured. */
function done(flips, words) {
    slice.done.push(Uint32Array.from(flips));
    slice.undone = [];
    tell(words);
}

function undo(from, to, words) {
    if (!slice?.[from].length || stroke) return;
    const flips = slice[from].pop();
    flip(flips);
    slice[to].push(flips);
    tell(words);
}

function uncorrect() {
    const flips = [...slice.mask.keys()].filter(pixel => slice.mask[pixel] !== slice.own[pixel]);
    flip(flips);
    done(flips, 'The network’s mask is back.');
}

/* Let the server measure the mask. */
function tell(words) {
    const {study, index, mask} = slice;
    isUnsaved = true;
    trigger('submit', {study, index, runs: isCorrected(slice) ? runsOf(mask) : null, ...page.mark()});
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
        files[`images/${name}.png`] = new Uint8Array(await (await fetch(pair.picture)).arrayBuffer());
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
    const count = corrected().length;
    find('#undo').disabled = !slice?.done.length;
    find('#redo').disabled = !slice?.undone.length;
    find('#uncorrect').disabled = !slice || !isCorrected(slice);
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

/* Keys on the slice itself, for whoever uses no mouse. */
function onKey(event) {
    const arrow = ARROWS[event.key];
    if (!slice || event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) {
        const stride = event.shiftKey ? STRIDE : 1, [width, height] = [slice.width, slice.height];
        moveRing([[0, width], [1, height]].map(([axis, side]) => Math.min(Math.max(spot[axis] + stride * arrow[axis], 0), side - 1)));
        if (stroke) extend(spot);
    } else if (event.key === ' ' || isKey(event, 'e')) {
        if (!event.repeat && !stroke) begin(spot, event.key === ' ' ? 1 : 0);
    } else if (event.key === '[' || event.key === ']') setSize(size + (event.key === ']' ? 1 : -1));
    else return;
    event.preventDefault();
    event.stopPropagation();
}

function startBrush(element, told) {
    trigger = told;
    surface = element.querySelector('.slice');
    page.drags.brush = place => {
        if (slice) begin(toPixel(place), erases ? 0 : 1);
        return {move: next => { if (stroke) extend(toPixel(next)); }, end, cancel};
    };
    surface.addEventListener('keydown', onKey);
    surface.addEventListener('keyup', event => { if (event.key === ' ' || isKey(event, 'e')) end(); });
    surface.addEventListener('blur', end);
    // By itself, a click would take the keys away from it.
    find('#stage').addEventListener('mousedown', event => {
        if (!slice || !event.target.closest('#anatomy .slice')) return;
        event.preventDefault();
        surface.focus({preventScroll: true});
    });

    const stage = find('#stage'), ring = surface.querySelector('.ring');
    stage.addEventListener('pointermove', event => {
        if (slice && find('#anatomy .slice')) moveRing(toPixel(page.placeOf(event)));
        ring.classList.toggle('away', !event.target.closest('#anatomy'));
    });
    stage.addEventListener('pointerleave', () => ring.classList.add('away'));
    document.addEventListener('keydown', event => {
        const button = find('#tools [data-tool=brush]');
        if (isKey(event, 'b') && find('#anatomy .slice')) button.click();
        if (isKey(event, 'escape') && slice) {
            button.click();
            button.focus();
        }
        if (!slice || isTyping(event) || !(event.ctrlKey || event.metaKey)) return;
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
    new MutationObserver(follow).observe(stage, {attributes: true, attributeFilter: ['data-tool']});
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
    find('#person').addEventListener('input', event => { if (slice) persons.set(slice.study, event.target.value); });
}

page.startBrush = startBrush;
