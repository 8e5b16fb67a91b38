/* What was measured, as HTML in the words of the Python page (space/views.py). */

const MAX_LESIONS_LISTED = 20;
const UNKNOWN = 'The network does not know such';
const SIDES = ['RL', 'AP', 'SI'];

export const escape = text => text.replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
const counted = value => Math.round(value).toLocaleString('en-US');

/* slice: as the worker opened it. measured: as it measured it. settings: settings.json. threads: of the worker. */
export function drawReport(slice, measured, settings, threads) {
    const {volume} = slice, {whole} = measured, {familiarity, warnings} = volume ?? slice;
    const isFound = whole ? whole.lesions.length > 0 : measured.tumor_found;
    let [kind, verdict] = isFound ? ['found', 'Tumour found'] : ['clear', 'No tumour found'], doubt = '';
    if (measured.corrected) verdict = `${verdict.replace(/ found$/, '')}, corrected by hand`;
    else if (familiarity !== null && familiarity < settings.unfamiliar) {
        doubt = `<p class="detail">It says nevertheless: ${verdict.toLowerCase()}.</p>`;
        [kind, verdict] = ['unknown', `${UNKNOWN} ${whole ? 'volumes' : 'pictures'}`];
    }
    const {name, revision} = settings.source;
    return `
    <h2 class="verdict ${kind}">${verdict}</h2>
    ${doubt}
    <p class="detail">Highest probability ${(100 * measured.highest_probability).toFixed(0)} %${whole ? ' in this slice' : ''}
    · ${slice.seconds.toFixed(2)} s in this browser, ${threads === 1 ? '1 thread' : `${threads} threads`}</p>
    <p class="detail">Model ${escape(name)}${revision ? `, revision ${escape(revision)}` : ''}</p>
    ${drawWarnings([...byHand(measured), ...warnings])}
    ${definitions({...whole && volumeFigures(whole, volume), ...figures(measured)})}
    ${lesionTable(measured, slice)}`;
}

/* The sentence on masks that somebody corrected, if there are any; corrected: of how many slices. */
function byHand({corrected, whole}) {
    if (!corrected) return [];
    const [where, mask] = whole ? [`In ${corrected} of the slices the`, 'masks'] : ['The', 'mask'];
    return [`${where} mask was corrected by hand: pictures and figures are of the corrected ${mask}, and not the network's alone.`];
}

export function drawWarnings(sentences) {
    return sentences.length ? `<ul class="warnings">${sentences.map(one => `<li>${escape(one)}</li>`).join('')}</ul>` : '';
}

/* Where along a volume the tumour lies, and its lesions, largest first; a click leads to the slice in the middle of one. */
export function drawOverview({areas, lesions}) {
    const highest = Math.max(...areas, 1);
    const bar = (high, index) => `<rect x="${index}" y="${100 - high}" width="1" height="${high}"/>`;
    const bars = areas.map((area, index) => bar(100 * area / highest, index));
    const profile = `<svg class="profile" viewBox="0 0 ${areas.length} 100" preserveAspectRatio="none" role="img"
        aria-label="Tumour area, slice by slice">${bars.join('')}</svg>`;
    if (!lesions.length) return profile;
    const rows = lesions.slice(0, MAX_LESIONS_LISTED).map(({centre, centre_mm: mm, slices: [first, last], ...lesion}, index) => {
        const [middle, row, column] = centre.map(Math.round);
        const to = `<button type="button" data-index="${middle}" data-row="${row}" data-column="${column}">
            ${index + 1}, slice ${middle + 1}</button>`;
        const side = (value, axis) => `${SIDES[axis][Number(value < 0)]} ${Math.abs(value).toFixed(0)}`;
        const place = mm ? mm.map(side).join(' ') : `${first + 1} to ${last + 1}`;
        return [to, lesion.volume_ml.toFixed(2), lesion.longest_diameter_mm.toFixed(1), place, lesion.mean_probability.toFixed(2)];
    });
    const columns = ['Lesion', 'mL', 'Longest, mm', lesions[0].centre_mm ? 'Centre, mm' : 'Slice', 'Mean prob.'];
    return `${profile}<h2>${lesions.length} ${lesions.length === 1 ? 'lesion' : 'lesions'} in the volume</h2>
        ${table('Lesions of the volume', columns, rows, lesions.length - rows.length)}`;
}

function volumeFigures({volume_ml, voxels, areas, found, lesions}, {planes}) {
    const longest = lesions.map(lesion => lesion.longest_diameter_mm);
    return {
        'Volume': [`${volume_ml.toFixed(1)} mL`, `${counted(voxels)} voxels`],
        'Lesions': [lesions.length, ...longest.length ? [`longest ${Math.max(...longest).toFixed(1)} mm`] : []],
        'Slices with tumour': [found, `of ${areas.length}`],
        'Slices looked at': [[planes.slice(0, -1).join(', '), planes.at(-1)].filter(Boolean).join(' and ')],
    };
}

function figures(measured) {
    const areas = [`${counted(measured.area_px)} px`, `${measured.area_percent.toFixed(2)} % of the slice`];
    const diameters = [`${(measured.longest_diameter_px ?? 0).toFixed(1)} px`];
    if (measured.spacing) {
        areas.unshift(`${counted(measured.area_mm2)} mm²`);
        diameters.unshift(`${(measured.longest_diameter_mm ?? 0).toFixed(1)} mm`);
    }
    const found = {'Area': areas, 'Longest diameter': diameters};
    const {agreement} = measured;
    if (agreement) found['Dice'] = [agreement.dice.toFixed(2), `IoU ${agreement.iou.toFixed(2)}`, 'to the outline drawn by hand'];
    return found;
}

function definitions(found) {
    const one = ([name, [value, ...notes]]) => `<div><dt>${name}</dt><dd>${value}<small>${notes.join(' · ')}</small></dd></div>`;
    return `<dl>${Object.entries(found).map(one).join('')}</dl>`;
}

function lesionTable({lesions, spacing}, {width, height}) {
    if (!lesions.length) return '';
    const columns = ['Lesion', ...(spacing ? ['Area, mm²', '%', 'Longest, mm'] : ['Area, px', '%', 'Longest, px']), 'Mean prob.'];
    const rows = lesions.slice(0, MAX_LESIONS_LISTED).map((lesion, index) => [
        index + 1, counted(spacing ? lesion.area_mm2 : lesion.area_px), (100 * lesion.area_px / (width * height)).toFixed(2),
        (spacing ? lesion.longest_diameter_mm : lesion.longest_diameter_px).toFixed(1), lesion.mean_probability.toFixed(2),
    ]);
    return table('Lesions of this slice', columns, rows, lesions.length - rows.length);
}

function table(caption, columns, rows, more) {
    const head = columns.map(column => `<th scope="col">${column}</th>`).join('');
    const note = more ? `<p class="detail">and ${more} smaller ones</p>` : '';
    const body = rows.map(row => `<tr>${row.map(cell => `<td>${cell}</td>`).join('')}</tr>`).join('');
    return `<div class="scroll" tabindex="0" role="group" aria-label="${caption}"><table>
    <caption>${caption}</caption><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table>${note}</div>`;
}
