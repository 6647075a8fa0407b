//! The texts in Japanese.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "続ける",
        PageText::Home => "トップページへ",
        PageText::LogIn => "ログイン",
        PageText::LogInAgain => "もう一度ログイン",
        PageText::LogInWithPassword => "パスワードでログイン",
        PageText::OtherAccount => "別のアカウントを使う",
        PageText::LogOut => "ログアウト",
        PageText::TryAgain => "再試行",
        PageText::Wait => "{wait} 後にもう一度お試しください。",
        PageText::Soon => "しばらくしてからもう一度お試しください。",
        PageText::Support => "問題が続く場合は、次の番号を管理者にお知らせください。",
        PageText::Help => "お問い合わせ：",
        PageText::OneMoment => "お待ちください …",
        PageText::OpenTelephone => "電話を開く",
        PageText::LinkWorksOnce => "このリンクでログインします。使用できるのは一度だけです。",
        PageText::WhichAccount => "どのアカウントですか？",
        PageText::LogInWith => "ログイン方法",
        PageText::LogOutQuestion => "ログアウトしますか？",
        PageText::LogOutOfTelephoneQuestion => "電話システムからログアウトしますか？",
        PageText::LoggedOut => "ログアウトしました",
        PageText::CloseWindow => "このウィンドウは閉じてかまいません。",
        PageText::PasswordQuestion => "{host} にパスワードでログインしましたか？",
        PageText::LogOutThere => "そちらからもログアウト",
        PageText::LogOutOfLoginService => "ログインサービスからもログアウト",
        PageText::LogoutUnconfirmed => "電話システムにまだログインしている可能性があります",
        PageText::LogoutUnconfirmedAdvice => {
            "ログアウトが確認されませんでした。しばらくしてから、もう一度ログアウトしてください。"
        }
        PageText::LogInFirst => "先にログインしてください",
        PageText::LogInFirstAdvice => "このサイトにログインしてから、もう一度リンクを開いてください。",
        PageText::NoAccess => "アクセス権がありません",
        PageText::NoAccessAdvice => {
            "このログインに対応する電話がありません。心当たりがない場合は管理者にお知らせください。"
        }
        PageText::LoginUsed => "このログインは使用済みか、時間切れです",
        PageText::LoginUsedAdvice => "もう一度ログインをやり直してください。",
        PageText::Blocked => "ここからはこのページを開けません",
        PageText::BlockedAdvice => "オフィスなど、特定のネットワークからのみ開けます。",
        PageText::OtherSite => "別のサイトから移動してきました",
        PageText::OtherSiteAdvice => "安全のため、このページは元のサイトから開いてください。",
        PageText::TooMany => "リクエストが多すぎます",
        PageText::OpenInBrowser => "このリンクはブラウザーで開いてください",
        PageText::OpenInBrowserAdvice => "リンクを検査するプログラムなどが先に開きました。リンクはまだ使えます。",
        PageText::NoAnswer => "サーバーが応答しません",
        PageText::TelephoneDown => "電話システムが応答しません",
        PageText::LoginServiceDown => "ログインサービスが応答しません",
        PageText::LoginDenied => "ログインサービスがログインを拒否しました",
        PageText::LoginDeniedAdvice => "別のユーザーでログインするか、管理者にお知らせください。",
        PageText::LoginUnknown => "このログインは確認できません",
        PageText::LoginUnknownAdvice => {
            "古すぎるか、使用済みか、ブラウザーがこのサイトの Cookie を保存していません。もう一度やり直してください。"
        }
        PageText::LoginNotKept => "電話システムへのログインが保持されませんでした",
        PageText::LoginNotKeptAdvice => {
            "ブラウザーがこのサイトの Cookie を保存していない可能性があります。許可してから、もう一度ログインしてください。"
        }
        PageText::NotRecorded => "現在、ログインを記録できません",
        PageText::NotFound => "このアドレスには何もありません",
        PageText::NotFoundAdvice => "アドレスを確認するか、前のページに戻ってください。",
        PageText::Unreadable => "リクエストを読み取れません",
        PageText::UnreadableAdvice => "前のページに戻って、もう一度お試しください。",
        PageText::TooSlow => "リクエストが時間内に届きませんでした",
    }
}
