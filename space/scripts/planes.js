/* A volume as NiiVue draws it: three planes with a crosshair, or all of it in 3-D, with the mask over both.

   Voxels are counted as in the files of the server, [column, row, slice]. NiiVue's own mouse, fingers, keys and drops
   are off: those of the page are the same here as on slices. */
(() => {
    const MAX_ZOOM = 16, NOTCH = 50, TURN_DEGREES = 5, MASK_COLORS = 'tumor';
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    /* What keys do in planes: steps to the patient's right, anterior and superior side; in 3-D: degrees. */
    const STEPS = {
        ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0],
        ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
        PageUp: [0, 0, 1], PageDown: [0, 0, -1],
    };
    const TURNS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

    /* Rows of an affine matrix and a voxel → mm; and back. */
    const toMm = (rows, [i, j, k]) => rows.slice(0, 3).map(([x, y, z, start]) => x * i + y * j + z * k + start);
    function toVoxel(rows, mm) {
        const [a, b, c] = [0, 1, 2].map(axis => rows.slice(0, 3).map(row => row[axis]));
        const away = rows.slice(0, 3).map((row, axis) => mm[axis] - row[3]);
        const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
        const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
        const size = dot(a, cross(b, c));
        return [cross(b, c), cross(c, a), cross(a, b)].map(normal => dot(normal, away) / size);
    }

    /* Start NiiVue on a canvas.

       moved: is called with the voxel under the crosshair, its place in mm and its grey value, whenever it changes. */
    async function openPlanes(canvas, program, moved) {
        const {Niivue, NVImage, MULTIPLANAR_TYPE, SLICE_TYPE, SHOW_RENDER} = await import(program);
        const nv = new Niivue({
            interactive: false,
            dragAndDropEnabled: false,
            logLevel: 'error',
            loadingText: '',
            isRadiologicalConvention: true,
            sagittalNoseLeft: true,
            multiplanarShowRender: SHOW_RENDER.ALWAYS,
            multiplanarLayout: MULTIPLANAR_TYPE.GRID,
            multiplanarPadPixels: 4,
            crosshairColor: [0.37, 0.92, 0.83, 0.8],
            crosshairWidth: 0.8,
            crosshairWidthUnit: 'percent',
            crosshairGap: 8,
            show3Dcrosshair: true,
            isForceMouseClickToVoxelCenters: true,
            fontColor: [0.89, 0.91, 0.94, 1],
        });
        const greys = {centre: 0.5, width: 1};
        let zoom = 1;
        nv.onLocationChange = () => moved(position());
        await nv.attachToCanvas(canvas);

        const isSolid = () => nv.opts.sliceType === SLICE_TYPE.RENDER;
        const size = () => nv.volumes[0].hdr.dims.slice(1, 4);
        /* The sides of a voxel in mm, along columns, rows and slices. */
        const sizes = () => {
            const {affine} = nv.volumes[0].hdr;
            return [0, 1, 2].map(axis => Math.hypot(...affine.slice(0, 3).map(row => row[axis])));
        };

        // -------------------------------------------------------------------------------------------- what is drawn

        async function read(url, name, top, colormap) {
            const answer = await fetch(url);
            if (!answer.ok) throw new Error('The volume is gone from the server; please open it again.');
            const image = await NVImage.loadFromUrl({url: await answer.arrayBuffer(), name, colormap});
            return Object.assign(image, {cal_min: 0, cal_max: top});
        }

        /* A mask has a bit for each of `count` classes. */
        const topOf = count => 2 ** count - 1;

        async function load(scanUrl, maskUrl, count) {
            setColors(Array(count).fill('#000000'));
            const mask = read(maskUrl, 'mask.nii.gz', topOf(count), MASK_COLORS);
            const files = [read(scanUrl, 'scan.nii.gz', 255, 'gray'), mask];
            const images = await Promise.all(files);
            nv.volumes = [];
            for (const image of images) nv.addVolume(image);
        }

        /* Another mask in the same grid. */
        async function setMask(url) {
            nv.volumes[1].img = (await read(url, 'mask.nii.gz', nv.volumes[1].cal_max, MASK_COLORS)).img;
            draw(1);
        }

        /* One slice of them: where it lies in a file of the server. */
        const within = index => {
            const [columns, rows] = size();
            return [columns * rows * index, columns * rows * (index + 1)];
        };
        const maskOf = index => Uint8Array.from(nv.volumes[1].img.subarray(...within(index)));
        const greysOf = index => Uint8Array.from(nv.volumes[0].img.subarray(...within(index)));
        function setMaskOf(index, mask) {
            nv.volumes[1].img.set(mask, within(index)[0]);
            draw(1);
        }

        /* At the next frame, however often it is asked for until then. */
        const waiting = new Set();
        function draw(layer) {
            if (!waiting.size) requestAnimationFrame(() => {
                const layers = [...waiting].filter(one => nv.volumes[one]);
                waiting.clear();
                for (const one of layers) nv.refreshLayers(nv.volumes[one], one);
                if (nv.volumes.length) nv.drawScene();
            });
            waiting.add(layer);
        }

        /* Each value of the mask has the colour of its last class that is not hidden (null). */
        function setColors(colors) {
            const top = topOf(colors.length), any = colors.find(Boolean) ?? '#000000', nodes = [];
            for (let bits = 0; bits <= top; bits++) {
                const color = colors.findLast((one, index) => one && bits >> index & 1);
                for (const edge of [bits - 0.25, bits + 0.25]) {
                    const at = clamp(Math.round(255 * edge / top), 0, 255);
                    if (at > (nodes.at(-1)?.at ?? -1)) nodes.push({at, color});
                }
            }
            const channel = start => nodes.map(({color}) => parseInt((color ?? any).slice(start, start + 2), 16));
            const [A, I] = [nodes.map(({color}) => color ? 255 : 0), nodes.map(({at}) => at)];
            nv.addColormap(MASK_COLORS, {R: channel(1), G: channel(3), B: channel(5), A, I});
        }

        function setLook(colors, opacity) {
            setColors(colors);
            if (!nv.volumes[1]) return;
            nv.volumes[1].opacity = opacity;
            draw(1);
        }

        function setGreys(centre, width) {
            Object.assign(greys, {centre: clamp(centre, 0, 1), width: clamp(width, 0.02, 4)});
            const [low, high] = [-0.5, 0.5].map(side => 255 * (greys.centre + side * greys.width));
            Object.assign(nv.volumes[0], {cal_min: low, cal_max: high});
            draw(0);
        }

        function show(view, isOriented) {
            nv.opts.isOrientationTextVisible = isOriented;
            nv.setSliceType(view === 'all' ? SLICE_TYPE.RENDER : SLICE_TYPE.MULTIPLANAR);
            zoomTo(1);
        }

        /* About the crosshair, which stays where it is. */
        function zoomTo(wanted) {
            zoom = clamp(wanted, isSolid() ? 0.5 : 1, MAX_ZOOM);
            if (isSolid()) return nv.setScale(zoom);
            const [x, y, z] = nv.frac2mm(nv.scene.crosshairPos);
            nv.setPan2Dxyzmm([(1 - zoom) * x, (1 - zoom) * y, (1 - zoom) * z, zoom]);
        }

        function reset() {
            nv.setScale(1);
            nv.setRenderAzimuthElevation(110, 10);
            zoomTo(1);
            setGreys(0.5, 1);
        }

        // -------------------------------------------------------------------------------------------- the crosshair

        function position() {
            const [scan] = nv.volumes, [columns, rows, slices] = size();
            const exact = toVoxel(scan.hdr.affine, nv.frac2mm(nv.scene.crosshairPos, 0, true));
            const voxel = [columns, rows, slices].map((count, axis) => clamp(Math.round(exact[axis]), 0, count - 1));
            const [column, row, slice] = voxel;
            const at = column + columns * (row + rows * slice);
            return {voxel, mm: toMm(scan.hdr.affine, voxel), grey: scan.img[at], isMarked: nv.volumes[1]?.img[at] > 0};
        }

        function goTo(voxel) {
            nv.scene.crosshairPos = nv.mm2frac(toMm(nv.volumes[0].hdr.affine, voxel), 0, true);
            nv.drawScene();
            nv.createOnLocationChange();
        }

        function goToSlice(slice) {
            const [column, row, now] = position().voxel;
            if (slice !== now) goTo([column, row, slice]);
        }

        /* To the middle of what is marked in a slice, or of the slice. */
        function goToMask(slice) {
            const [columns, rows] = size(), {img} = nv.volumes[1], sum = [0, 0];
            let count = 0;
            for (let row = 0; row < rows; row++)
                for (let column = 0; column < columns; column++) {
                    if (!img[column + columns * (row + rows * slice)]) continue;
                    count++;
                    sum[0] += column;
                    sum[1] += row;
                }
            const middle = count ? sum.map(one => Math.round(one / count)) : [columns >> 1, rows >> 1];
            goTo([...middle, slice]);
        }

        // -------------------------------------------------------------------------------------- mouse, fingers, keys

        const place = ({clientX, clientY}) => {
            const {left, top} = canvas.getBoundingClientRect();
            return {x: clientX - left, y: clientY - top};
        };
        const tileAt = ({x, y}) => nv.tileIndex(x * nv.uiData.dpr, y * nv.uiData.dpr);
        const isSolidAt = ({x, y}) => isSolid() || nv.inRenderTile(x * nv.uiData.dpr, y * nv.uiData.dpr) >= 0;

        /* What of the volume lies at a place of a plane: its voxel, the axis across that plane, and how many px of the screen
           the shortest side of a voxel takes there; null outside. */
        function spotAt({x, y}) {
            const {dpr} = nv.uiData, tile = tileAt({x, y}), {axCorSag, leftTopWidthHeight, fovMM} = nv.screenSlices[tile] ?? {};
            if (!(axCorSag <= SLICE_TYPE.SAGITTAL)) return null;
            const share = nv.screenXY2TextureFrac(x * dpr, y * dpr, tile, true);
            if (share[0] < 0) return null;
            const [scan] = nv.volumes, exact = toVoxel(scan.hdr.affine, nv.frac2mm(share, 0, true));
            const voxel = size().map((count, axis) => clamp(Math.round(exact[axis]), 0, count - 1));
            const across = Math.abs(scan.permRAS[2 - axCorSag]) - 1; // planes are axial, coronal, sagittal
            const pixel = Math.min(...sizes()) * Math.abs(leftTopWidthHeight[2] / fovMM[0]) / dpr;
            return {voxel, across, tile, pixel};
        }

        function turnBy(azimuth, elevation) {
            const {renderAzimuth: around, renderElevation: above} = nv.scene;
            nv.setRenderAzimuthElevation((around + azimuth + 360) % 360, clamp(above + elevation, -90, 90));
        }

        /* What a drag does, as it goes on; as on slices, to the right is more contrast, and down is darker. */
        function drags(event, from) {
            if (event.button === 2 || canvas.closest('[data-tool="window"]')) {
                const {centre, width} = greys, side = canvas.clientHeight;
                return to => {
                    const wide = clamp(width * 4 ** ((to.x - from.x) / side), 0.02, 4);
                    setGreys(centre + (to.y - from.y) / side * wide, wide);
                };
            }
            if (isSolidAt(from)) {
                let last = from;
                return to => {
                    turnBy(to.x - last.x, to.y - last.y);
                    last = to;
                };
            }
            if (canvas.closest('[data-tool="brush"]')) {
                const paints = page.paintIn(spotAt(from));
                return paints && Object.assign(to => paints(spotAt(to)), paints);
            }
            const tile = tileAt(from);
            const move = to => { if (tileAt(to) === tile) nv.mouseClick(to.x, to.y); };
            move(from);
            return move;
        }

        const fingers = new Map();
        let drag = null, pinch = null;
        const spread = () => {
            const [one, other] = [...fingers.values()];
            return Math.hypot(one.x - other.x, one.y - other.y);
        };
        canvas.addEventListener('pointerdown', event => {
            if (!nv.volumes.length) return;
            event.preventDefault();
            canvas.focus({preventScroll: true});
            canvas.setPointerCapture(event.pointerId);
            fingers.set(event.pointerId, place(event));
            drag?.cancel?.();
            drag = fingers.size === 1 ? drags(event, place(event)) : null;
            pinch = fingers.size === 2 ? {wide: spread(), zoom} : null;
        });
        canvas.addEventListener('pointermove', event => {
            if (nv.volumes.length) page.ringAt(spotAt(place(event)), place(event));
            if (!fingers.has(event.pointerId)) return;
            fingers.set(event.pointerId, place(event));
            drag?.(place(event));
            if (pinch && fingers.size === 2) zoomTo(pinch.zoom * spread() / pinch.wide);
        });
        for (const name of ['pointerup', 'pointercancel'])
            canvas.addEventListener(name, event => {
                fingers.delete(event.pointerId);
                drag?.[name === 'pointerup' ? 'end' : 'cancel']?.();
                drag = pinch = null;
            });
        canvas.addEventListener('pointerleave', () => page.ringAt(null, {}));
        canvas.addEventListener('contextmenu', event => event.preventDefault());
        canvas.addEventListener('dblclick', () => zoomTo(1));
        let travelled = 0;
        canvas.addEventListener('wheel', event => {
            event.preventDefault();
            if (!nv.volumes.length) return;
            const at = place(event), step = clamp(event.deltaY, -200, 200);
            // Two fingers on a trackpad come as a wheel with Ctrl.
            if (event.ctrlKey || isSolid()) return zoomTo(zoom * Math.exp(-step / (event.ctrlKey ? 100 : 400)));
            if (isSolidAt(at)) return;
            // A notch of a mouse is a slice; a trackpad goes in many small steps.
            travelled = Math.abs(step) >= NOTCH ? Math.sign(step) * NOTCH : travelled + step;
            if (Math.abs(travelled) < NOTCH) return;
            nv.sliceScroll2D(Math.sign(travelled), at.x, at.y);
            travelled = 0;
        }, {passive: false});

        /* Whether a key means something here. */
        function press(key) {
            if (isSolid() && TURNS[key]) turnBy(...TURNS[key].map(one => one * TURN_DEGREES));
            else if (!isSolid() && STEPS[key]) nv.moveCrosshairInVox(...STEPS[key]);
            else return false;
            return true;
        }

        const zoomBy = factor => zoomTo(zoom * factor);
        /* Sides of the volume in voxels, and of a voxel in its shortest side. */
        const grid = () => {
            const inMm = sizes(), shortest = Math.min(...inMm);
            return {sides: size(), steps: inMm.map(one => one / shortest)};
        };
        return {
            load, setMask, maskOf, setMaskOf, greysOf, grid, setLook, show, zoomBy, reset, position, goTo, goToSlice, goToMask, press,
        };
    }

    page.openPlanes = openPlanes;
})();
