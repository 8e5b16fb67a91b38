/* What was measured, as HTML in the words of the Python page (space/views.py). */

const MAX_LESIONS_LISTED = 20;
const UNKNOWN = 'The network does not know such pictures';

export const escape = text => text.replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
const counted = value => Math.round(value).toLocaleString('en-US');

/* slice: as the worker opened it. measured: as it measured it. model: of settings.json. threads: of the worker. */
export function drawReport(slice, measured, {spacing}, settings, threads) {
    let [kind, verdict] = measured.tumor_found ? ['found', 'Tumour found'] : ['clear', 'No tumour found'], doubt = '';
    if (slice.familiarity !== null && slice.familiarity < settings.unfamiliar) {
        doubt = `<p class="detail">It says nevertheless: ${verdict.toLowerCase()}.</p>`;
        [kind, verdict] = ['unknown', UNKNOWN];
    }
    const {name, revision} = settings.model;
    return `
    <h2 class="verdict ${kind}">${verdict}</h2>
    ${doubt}
    <p class="detail">Highest probability ${(100 * measured.highest_probability).toFixed(0)} %
    · ${slice.seconds.toFixed(2)} s in this browser, ${threads === 1 ? '1 thread' : `${threads} threads`}</p>
    <p class="detail">Model ${escape(name)}${revision ? `, revision ${escape(revision)}` : ''}</p>
    ${drawWarnings(slice.warnings)}
    ${definitions(figures(measured, spacing))}
    ${lesionTable(measured, slice, spacing)}`;
}

export function drawWarnings(sentences) {
    return sentences.length ? `<ul class="warnings">${sentences.map(one => `<li>${escape(one)}</li>`).join('')}</ul>` : '';
}

function figures(measured, spacing) {
    const areas = [`${counted(measured.area_px)} px`, `${measured.area_percent.toFixed(2)} % of the slice`];
    const diameters = [`${(measured.longest_diameter_px ?? 0).toFixed(1)} px`];
    if (spacing) {
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

function lesionTable({lesions}, {width, height}, spacing) {
    if (!lesions.length) return '';
    const columns = ['Lesion', ...(spacing ? ['Area, mm²', '%', 'Longest, mm'] : ['Area, px', '%', 'Longest, px']), 'Mean prob.'];
    const rows = lesions.slice(0, MAX_LESIONS_LISTED).map((lesion, index) => [
        index + 1, counted(spacing ? lesion.area_mm2 : lesion.area_px), (100 * lesion.area_px / (width * height)).toFixed(2),
        (spacing ? lesion.longest_diameter_mm : lesion.longest_diameter_px).toFixed(1), lesion.mean_probability.toFixed(2),
    ]);
    const more = lesions.length - rows.length, note = more ? `<p class="detail">and ${more} smaller ones</p>` : '';
    const head = columns.map(column => `<th scope="col">${column}</th>`).join('');
    const body = rows.map(row => `<tr>${row.map(cell => `<td>${cell}</td>`).join('')}</tr>`).join('');
    return `<div class="scroll" tabindex="0" role="group" aria-label="Lesions of this slice"><table>
    <caption>Lesions of this slice</caption><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table>${note}</div>`;
}
