/* The slice under a glass: zoom and pan, the window of grey values, a ruler, and what lies under the cursor.

   Positions are shares of the slice's width and height, 0 … 1, so that they hold at any size on the screen. */
(() => {
    const {find, isKey, setSlider} = page;
    const MAX_ZOOM = 16, ZOOM_STEP = 1.25, NOTHING = '';
    const view = {zoom: 1, x: 0, y: 0}; // of the slice's left upper corner
    const greys = {centre: 0.5, width: 1}; // of the window
    let ruler = null; // {from, to} in the slice
    let pixels = null; // of the slice on the stage, once somebody points at it
    const drags = {}; // of tools in other files: name → a drag from a place in the slice, {move, end, cancel}
    let tool = NOTHING, glass;

    const isReady = () => glass && find('#reset'); // they come one after another
    const frame = () => find('#anatomy .slice');
    const picture = () => find('#anatomy .slice > img');
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const size = () => ['--width', '--height'].map(name => Number(frame().style.getPropertyValue(name)));

    /* Where an event is in the frame, and in the slice. */
    function inFrame({clientX, clientY}) {
        const {left, top, width, height} = frame().getBoundingClientRect();
        return {x: (clientX - left) / width, y: (clientY - top) / height};
    }
    const inSlice = ({x, y}) => ({x: (x - view.x) / view.zoom, y: (y - view.y) / view.zoom});
    const placeOf = event => inSlice(inFrame(event));

    // ------------------------------------------------------------------------------------------------ zoom and pan

    function zoomTo(zoom, at = {x: 0.5, y: 0.5}) {
        const fixed = inSlice(at);
        view.zoom = clamp(zoom, 1, MAX_ZOOM);
        moveTo(at.x - fixed.x * view.zoom, at.y - fixed.y * view.zoom);
    }

    function moveTo(x, y) {
        [view.x, view.y] = [clamp(x, 1 - view.zoom, 0), clamp(y, 1 - view.zoom, 0)];
        draw();
    }

    // ------------------------------------------------------------------------------------------------- what is drawn

    function draw() {
        const stage = find('#stage');
        stage.style.setProperty('--zoom', view.zoom);
        stage.style.setProperty('--x', `${100 * view.x}%`);
        stage.style.setProperty('--y', `${100 * view.y}%`);
        stage.classList.toggle('zoomed', view.zoom > 1);
        const isWindowed = greys.centre !== 0.5 || greys.width !== 1;
        stage.classList.toggle('windowed', isWindowed);
        for (const channel of glass.querySelectorAll('filter > * > *')) {
            channel.setAttribute('slope', 1 / greys.width);
            channel.setAttribute('intercept', 0.5 - greys.centre / greys.width);
        }
        find('#reset').disabled = view.zoom === 1 && !isWindowed && !ruler;
        drawRuler();
        drawScale();
    }

    /* mm of a pixel as [row, column], or null; the overlay knows what was typed, too. */
    function spacing() {
        const known = find('#layers .slice')?.dataset.spacing;
        return known ? known.split(' ').map(Number) : null;
    }

    function lengthOf({from, to}) {
        const [width, height] = size(), [row, column] = spacing() ?? [1, 1];
        const length = Math.hypot((to.x - from.x) * width * column, (to.y - from.y) * height * row);
        return `${length.toFixed(1)} ${spacing() ? 'mm' : 'px'}`;
    }

    function drawRuler() {
        const line = glass.querySelector('.ruler'), label = glass.querySelector('.length');
        line.classList.toggle('drawn', Boolean(ruler));
        label.textContent = ruler && frame() ? lengthOf(ruler) : NOTHING;
        if (!ruler) return;
        const onGlass = ({x, y}) => [x * view.zoom + view.x, y * view.zoom + view.y].map(share => `${100 * share}%`);
        const [x1, y1] = onGlass(ruler.from), [x2, y2] = onGlass(ruler.to);
        for (const one of line.children)
            for (const [name, value] of Object.entries({x1, y1, x2, y2})) one.setAttribute(name, value);
        [label.style.left, label.style.top] = [x2, y2];
    }

    /* A bar of 1, 2 or 5 times a power of ten mm, up to three tenths of the frame. */
    function drawScale() {
        const bar = glass.querySelector('.scale'), mm = spacing();
        bar.hidden = !mm || !frame();
        if (bar.hidden) return;
        const across = size()[0] * mm[1] / view.zoom; // mm that the frame shows
        const power = 10 ** Math.floor(Math.log10(0.3 * across));
        const length = Math.max(...[1, 2, 5].map(step => step * power).filter(step => step <= 0.3 * across));
        bar.style.width = `${100 * length / across}%`;
        bar.textContent = length >= 10 ? `${length / 10} cm` : `${Number(length.toPrecision(1))} mm`;
    }

    function probe(event) {
        const {x, y} = placeOf(event), [width, height] = size();
        const column = Math.floor(x * width), row = Math.floor(y * height);
        const isInside = column >= 0 && row >= 0 && column < width && row < height;
        glass.querySelector('.probe').textContent = isInside ? `${column}, ${row}: ${greyAt(column, row)}` : NOTHING;
    }

    function greyAt(column, row) {
        if (!picture().complete) return '…';
        if (!pixels) {
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = size();
            const context = canvas.getContext('2d', {willReadFrequently: true});
            context.drawImage(picture(), 0, 0);
            pixels = context.getImageData(0, 0, canvas.width, canvas.height);
        }
        const [red, green, blue] = pixels.data.subarray(4 * (row * pixels.width + column));
        return red === green && green === blue ? red : `${red} ${green} ${blue}`;
    }

    // ------------------------------------------------------------------------------------------------- what is done

    function setTool(name) {
        tool = name === tool ? NOTHING : name;
        find('#stage').dataset.tool = tool;
        for (const button of document.querySelectorAll('#tools [data-tool]'))
            button.setAttribute('aria-pressed', button.dataset.tool === tool);
    }

    function reset() {
        Object.assign(view, {zoom: 1, x: 0, y: 0});
        Object.assign(greys, {centre: 0.5, width: 1});
        ruler = null;
        draw();
    }

    /* What a drag does, from where it began to where it is. */
    function dragOf(event) {
        if (event.button === 2 || tool === 'window') return (from, to) => {
            const {centre, width} = from.greys;
            greys.width = clamp(width * 4 ** (to.x - from.x), 0.02, 4);
            greys.centre = clamp(centre + (to.y - from.y) * greys.width, 0, 1);
            draw();
        };
        if (drags[tool]) {
            const drag = drags[tool](placeOf(event));
            return Object.assign((_, to) => drag.move(inSlice(to)), drag);
        }
        if (tool === 'ruler') return (from, to) => {
            ruler = {from: inSlice(from), to: inSlice(to)};
            draw();
        };
        return (from, to) => moveTo(from.view.x + to.x - from.x, from.view.y + to.y - from.y);
    }

    function startPointers(stage) {
        const fingers = new Map();
        let drag = null, pinch = null;
        const spread = () => {
            const [one, other] = [...fingers.values()];
            return {x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, wide: Math.hypot(one.x - other.x, one.y - other.y)};
        };
        const isOn = event => frame() && event.target.closest('#anatomy .slice');

        stage.addEventListener('pointerdown', event => {
            if (!isOn(event)) return;
            fingers.set(event.pointerId, inFrame(event));
            drag?.moves.cancel?.();
            drag = pinch = null;
            if (fingers.size === 2) pinch = {...spread(), zoom: view.zoom};
            else drag = {from: {...inFrame(event), view: {...view}, greys: {...greys}}, moves: dragOf(event)};
            if (event.pointerType === 'mouse' || tool) event.target.setPointerCapture(event.pointerId);
        });
        stage.addEventListener('pointermove', event => {
            if (!frame()) return;
            if (isOn(event)) probe(event);
            if (!fingers.has(event.pointerId)) return;
            fingers.set(event.pointerId, inFrame(event));
            if (drag) drag.moves(drag.from, inFrame(event));
            if (pinch && fingers.size === 2) {
                const now = spread();
                zoomTo(pinch.zoom * now.wide / pinch.wide, now);
            }
        });
        for (const name of ['pointerup', 'pointercancel'])
            window.addEventListener(name, event => {
                fingers.delete(event.pointerId);
                drag?.moves[name === 'pointerup' ? 'end' : 'cancel']?.();
                drag = pinch = null;
            });
        stage.addEventListener('pointerleave', () => { glass.querySelector('.probe').textContent = NOTHING; });
        stage.addEventListener('contextmenu', event => { if (isOn(event)) event.preventDefault(); });
        stage.addEventListener('dblclick', event => { if (isOn(event) && !drags[tool]) zoomTo(1); });
        // Two fingers are never for the page, one only where there is nothing to move.
        stage.addEventListener('touchmove', event => {
            if (isOn(event) && (event.touches.length > 1 || tool || view.zoom > 1)) event.preventDefault();
        }, {passive: false});
        stage.addEventListener('wheel', event => {
            // Where it cannot become smaller, the page scrolls.
            if (!frame() || !event.target.closest('.slice') || (event.deltaY > 0 && view.zoom === 1)) return;
            event.preventDefault();
            zoomTo(view.zoom * Math.exp(clamp(-event.deltaY, -200, 200) / 400), inFrame(event));
        }, {passive: false});
    }

    function startKeys() {
        document.addEventListener('keydown', event => {
            if (!frame()) return;
            if (isKey(event, '+', '=')) zoomTo(view.zoom * ZOOM_STEP);
            else if (isKey(event, '-', '_')) zoomTo(view.zoom / ZOOM_STEP);
            else if (isKey(event, '0')) reset();
            else if (!event.target.closest('input, [tabindex="0"]')) {
                if (isKey(event, 'arrowleft', 'arrowup')) turn(event, -1);
                if (isKey(event, 'arrowright', 'arrowdown')) turn(event, 1);
            }
        });
    }

    /* To the slice before or after, if there are several. */
    function turn(event, step) {
        const scrubber = find('#scrubber input[type=range]'), choices = [...document.querySelectorAll('.gallery button')];
        if (scrubber) setSlider('#scrubber', clamp(Number(scrubber.value) + step, scrubber.min, scrubber.max));
        else choices[Number(frame().dataset.index) + step]?.click();
        if (scrubber || choices.length) event.preventDefault();
    }

    // --------------------------------------------------------------------------------------------------------- start

    function startTools(tools) {
        for (const button of tools.querySelectorAll('[data-tool]'))
            button.addEventListener('click', () => setTool(button.dataset.tool));
        tools.querySelector('#reset').addEventListener('click', reset);
        whenSliceChanges();
    }

    function startGlass(element) {
        glass = element;
        page.startSplit(glass);
        startPointers(find('#stage'));
        startKeys();
        whenSliceChanges();
    }

    /* Another slice is on the stage: what was measured on the last one is not of it. */
    let lastKind;
    function whenSliceChanges() {
        page.showChosen();
        if (!isReady()) return;
        const slice = frame(), kind = slice && `${slice.getAttribute('style')} ${slice.dataset.shown} ${slice.dataset.count}`;
        pixels = ruler = null;
        glass.querySelector('.probe').textContent = NOTHING;
        glass.firstElementChild.hidden = !slice;
        if (slice) glass.querySelector('.slice').setAttribute('style', slice.getAttribute('style'));
        // Several slices of one kind are looked at in one way.
        if (kind !== lastKind || slice?.dataset.count === '1') reset();
        else draw();
        lastKind = kind;
    }

    /* Buttons in the caption, which comes with the slice. */
    function startStage(element, trigger, watch) {
        element.addEventListener('click', event => {
            const button = event.target.closest('.caption button');
            if (button?.className === 'link') page.copyLink(button);
            if (button?.className === 'clear') trigger('clear', page.mark());
        });
        watch('value', whenSliceChanges);
    }

    const whenMeasured = () => { if (isReady()) draw(); };

    Object.assign(page, {drags, placeOf, startTools, startGlass, startStage, whenMeasured});
})();
