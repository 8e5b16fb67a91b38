/* Slices, three planes or 3-D: which view of a volume is chosen, and what the server has to send for it.

   NiiVue, which draws the last two (planes.js), is loaded when the first volume comes; never before, and not at all
   where there is no WebGL2. The slice on the stage and the crosshair follow each other. */
(() => {
    const {find, isKey, mark, say, setSlider} = page;
    const SLICES = 'slices', PLANES = 'planes', SOLID = 'all', SETTLED_MS = 250, ZOOM_STEP = 1.25;
    const SIDES = ['RL', 'AP', 'SI'];
    const ON_ITS_WAY = 'The volume is on its way …';
    const LABELS = {
        [PLANES]: 'The volume in three planes: arrow keys, Page up and Page down move the crosshair; '
            + 'with the brush, Space paints, E erases, [ and ] change its size, Escape puts it away',
        [SOLID]: 'The volume in 3-D: arrow keys turn it',
    };
    let view = SLICES; // it stays for the next volume
    let ask; // the server for files
    let opening = null, planes = null; // what draws: from when it is wanted, and once there is a volume in it
    let asked = {}; // volume, and settings of its mask
    let drawn = {}; // volume, and view of it
    let work = Promise.resolve(); // one file after another

    const frame = () => find('#anatomy .slice');
    const wanted = () => ({volume: frame()?.dataset.volume, cut: find('#layers .slice')?.dataset.cut});
    const isSame = (one, other) => one.volume === other.volume && one.cut === other.cut;
    const isShown = () => find('#stage').dataset.view === 'volume';
    const note = text => { find('#volume .place').textContent = text; };

    let canDraw = null;
    function hasWebGL2() {
        canDraw ??= Boolean(document.createElement('canvas').getContext('webgl2'));
        return canDraw;
    }

    const program = () => new URL(find('#volume .room').dataset.program, `${window.gradio_config.root}/`).href;
    const whenIdle = window.requestIdleCallback ?? setTimeout;

    /* What is on the stage has changed: another volume, mask or view, or none of them any more. */
    function followVolume() {
        const choice = find('#views fieldset');
        if (!choice || !ask) return;
        const {volume} = wanted(), isThere = Boolean(volume) && hasWebGL2();
        choice.hidden = !isThere;
        find('#stage').dataset.view = isThere && view !== SLICES ? 'volume' : SLICES;
        find('#stage').dataset.solid = view === SOLID; // there is no plane to paint on
        // Not waited for: if it cannot be had, that is said once it is wanted.
        if (isThere) whenIdle(() => import(program()).catch(() => {}));
        if (asked.volume && asked.volume !== volume) close();
        if (isShown()) open().catch(failed);
    }

    async function open() {
        const {volume, cut} = wanted();
        if (!planes) note(ON_ITS_WAY);
        if (!isSame(asked, {volume, cut})) {
            asked = {volume, cut};
            // Whoever drags a slider asks for many masks, and for none of them but the last; and slice and mask of
            // another volume come one after the other.
            setTimeout(() => {
                if (isSame(asked, {volume, cut})) ask('select', {scan: drawn.volume !== volume, ...mark()});
            }, drawn.volume ? SETTLED_MS : 0);
        }
        opening ??= page.openPlanes(newCanvas(), program(), moved);
        await opening;
        if (planes && drawn.view !== view) show();
    }

    function newCanvas() {
        const canvas = document.createElement('canvas');
        canvas.tabIndex = 0;
        canvas.setAttribute('role', 'application');
        canvas.setAttribute('aria-label', LABELS[view]);
        canvas.addEventListener('webglcontextlost', () => {
            if (canvas.isConnected) failed(new Error('The graphics card has no room for it.'));
        });
        find('#volume .room').prepend(canvas);
        return canvas;
    }

    function show() {
        drawn.view = view;
        find('#volume canvas').setAttribute('aria-label', LABELS[view]);
        planes.show(view, Boolean(frame().querySelector('b')));
        look();
        page.followBrush?.();
    }

    /* Files of the server: the mask, and before it perhaps the scan. */
    function drawVolume(files) {
        const scan = files.find(file => file.orig_name.startsWith('scan_'));
        const mask = files.find(file => file.orig_name.startsWith('mask_'));
        const [, volume] = mask.orig_name.split('_');
        work = work.then(async () => {
            const its = opening, on = await its;
            if (!on || volume !== wanted().volume || (!scan && drawn.volume !== volume)) return;
            await (scan ? on.load(scan.url, mask.url, classColors()?.length ?? 1) : on.setMask(mask.url));
            if (opening !== its) return; // meanwhile, another volume or none came
            page.correctPlanes?.(on, volume);
            if (!scan) return;
            planes = on;
            drawn = {volume};
            show();
            planes.goToMask(Number(frame().dataset.index));
        }).catch(failed);
        return [];
    }

    /* Back to slices, which can always be seen. */
    function leaveVolume() {
        close();
        view = SLICES;
        find('#views [value=slices]').checked = true;
        followVolume();
        return [];
    }

    function failed(error) {
        leaveVolume();
        say(`The volume cannot be shown as a whole: ${error.message}`);
    }

    function close() {
        const canvas = find('#volume canvas');
        canvas?.remove();
        canvas?.getContext('webgl2')?.getExtension('WEBGL_lose_context')?.loseContext();
        clearTimeout(settling);
        opening = planes = null;
        asked = {};
        drawn = {};
        note('');
        page.followBrush?.();
    }

    /* As slices look, whose colour and opacity CSS knows. */
    function look() {
        if (!planes) return;
        const style = getComputedStyle(document.documentElement);
        const [color, opacity] = ['color', 'opacity'].map(name => style.getPropertyValue(`--tumor-${name}`).trim());
        planes.setLook(classColors() ?? [color], find('#stage').dataset.hidden === 'true' ? 0 : Number(opacity));
    }

    /* Of several classes, null for those that are hidden. */
    function classColors() {
        const without = (find('#stage').dataset.without ?? '').split(' ');
        const colors = find('#layers .slice')?.dataset.classes?.split(' ');
        return colors?.map((color, index) => without.includes(`${index + 1}`) ? null : color);
    }

    // ------------------------------------------------------------------------- the slice and the crosshair, together

    /* The crosshair is somewhere else: once it stays there, the page shows its slice. */
    let settling;
    function moved({voxel, mm, grey}) {
        page.crosshairMoved?.(voxel);
        const [column, row, slice] = voxel;
        const [side, face, end] = mm.map((one, axis) => `${SIDES[axis][Number(one < 0)]} ${Math.abs(one).toFixed(1)}`);
        const isInMm = frame()?.dataset.places === 'mm';
        note(`${isInMm ? `${side} ${face} ${end} mm` : `${column}, ${row}, slice ${slice + 1}`}: ${grey}`);
        clearTimeout(settling);
        settling = setTimeout(() => {
            if (isShown() && frame() && slice !== Number(frame().dataset.index)) setSlider('#scrubber', slice + 1);
        }, SETTLED_MS);
    }

    function startFollowing() {
        document.addEventListener('input', event => {
            const index = Number(event.target.value) - 1;
            if (isShown() && planes && event.target.closest('#scrubber') && index >= 0) planes.goToSlice(index);
        });
        document.addEventListener('click', event => {
            const profile = event.target.closest('#overview .profile'), lesion = event.target.closest('[data-row]');
            if (profile) {
                const {left, width} = profile.getBoundingClientRect(), count = Number(frame().dataset.count);
                setSlider('#scrubber', 1 + Math.min(Math.floor((event.clientX - left) / width * count), count - 1));
            }
            if (lesion && isShown() && planes)
                planes.goTo(['column', 'row', 'index'].map(name => Number(lesion.dataset[name])));
        });
    }

    // --------------------------------------------------------------------------------------------------------- start

    function startKeys() {
        // Before the keys of slices, which would move what is not seen.
        window.addEventListener('keydown', event => {
            if (!isShown() || !planes) return;
            if (isKey(event, '+', '=')) planes.zoomBy(ZOOM_STEP);
            else if (isKey(event, '-', '_')) planes.zoomBy(1 / ZOOM_STEP);
            else if (isKey(event, '0')) planes.reset();
            else if (event.target.tagName !== 'CANVAS' || !planes.press(event.key)) return;
            event.preventDefault();
            event.stopPropagation();
        }, true);
    }

    function startViews(element) {
        element.addEventListener('change', event => {
            view = event.target.value;
            followVolume();
            if (isShown() && planes) planes.goToSlice(Number(frame().dataset.index));
        });
        element.querySelector('button').addEventListener('click', () => planes?.reset());
        followVolume();
    }

    function startVolume(element, trigger) {
        ask = trigger;
        startFollowing();
        startKeys();
        new MutationObserver(look).observe(document.documentElement, {attributeFilter: ['style']});
        new MutationObserver(look).observe(find('#stage'), {attributeFilter: ['data-hidden', 'data-without']});
        followVolume();
    }

    /* The mask of the newest settings, once more: a correction was taken back. */
    function askMask() {
        asked = {volume: asked.volume};
        open().catch(failed);
    }

    /* Of a study, if they are there; and those that are seen. */
    const planesOf = study => drawn.volume === study ? planes : null;
    const shownPlanes = () => isShown() && view === PLANES ? planes : null;

    Object.assign(page, {startViews, startVolume, followVolume, drawVolume, leaveVolume, askMask, planesOf, shownPlanes});
})();
